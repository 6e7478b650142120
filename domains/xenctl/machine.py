"""Machines as a whole: connect to one, end it. How one begins is in `launch.py`, which most commands have no need of."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from domains.control.address import MachineAddress
from domains.control.client import ControlClient
from domains.control.operations import Stop
from domains.control.protocol import ControlError, Exit, MachineEnded
from domains.xenctl.folder import LOG, folder_of, is_running, supervisor_pid

DEFAULT: Final = "default"
START_TIMEOUT: Final = 30.0
"""Seconds until Dom0 of a new machine must have answered."""
STOP_TIMEOUT: Final = 10.0
GRACE: Final = 3.0
"""Seconds given to Dom0 to end the machine before its supervisor is told to."""
POLL: Final = 0.005


def connect(name: str) -> ControlClient:
    """A client of a running machine. Raises ControlError if there is none."""
    folder = folder_of(name)
    if not is_running(folder):
        start = "xenctl start" if name == DEFAULT else f"xenctl start --machine {name}"
        raise ControlError(Exit.FAILURE, f"machine '{name}' is not running; start it with '{start}'")
    client = reach(folder, lambda: is_running(folder), START_TIMEOUT)
    if client is None:
        raise no_answer(name, folder)
    return client


def reach(folder: Path, lives: Callable[[], bool], timeout: float) -> ControlClient | None:
    """A client of a machine that may be starting; None after `timeout` seconds. Raises MachineEnded once it `lives` no more."""
    address = MachineAddress.in_folder(folder)
    deadline = time.monotonic() + timeout
    while True:
        living = lives()
        with suppress(FileNotFoundError, ConnectionRefusedError):
            return ControlClient(address)
        if not living:
            raise MachineEnded
        if time.monotonic() > deadline:
            return None
        time.sleep(POLL)


def no_answer(name: str, folder: Path) -> ControlError:
    """The error of a machine whose Dom0 cannot be asked."""
    text = f"machine '{name}' did not answer within {START_TIMEOUT:g} s; see {folder / LOG}"
    return ControlError(Exit.TIMED_OUT, text)


def stop_machine(name: str) -> None:
    """End a machine and everything in it; returns when nothing of it is left, its supervisor's process neither. One that
    was started under its name meanwhile, as by the agent of a fleet, is another.

    Raises ControlError.
    """
    folder = folder_of(name)
    pid = supervisor_pid(folder)

    def gone() -> bool:
        return supervisor_pid(folder) != pid if pid is not None else not is_running(folder)

    with ExitStack() as held:
        supervisor = None if pid is None else held.enter_context(process_handle(pid))
        with connect(name) as client:
            client.post(Stop())
            with suppress(MachineEnded):
                client.receive(GRACE)
            if not wait_for(gone, GRACE) and supervisor is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(supervisor, signal.SIGTERM)
        if not wait_for(lambda: gone() and has_ended(supervisor), STOP_TIMEOUT):
            raise ControlError(Exit.TIMED_OUT, f"machine '{name}' did not end; kill process {pid}")


@contextmanager
def process_handle(pid: int) -> Iterator[int | None]:
    """A descriptor that stands for process `pid`, whatever becomes of the number; None if there is no such process."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def has_ended(process: int | None) -> bool:
    """Whether the process that a descriptor stands for has ended; None stands for one that was not there."""
    if process is None:
        return True
    poller = select.poll()
    poller.register(process, select.POLLIN)
    return bool(poller.poll(0))


def wait_for(condition: Callable[[], bool], timeout: float) -> bool:
    """Look at `condition` until it holds; False after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True
