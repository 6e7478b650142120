"""Machines as a whole: start one detached, connect to it, end it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from domains.control.address import MachineAddress
from domains.control.client import ControlClient
from domains.control.operations import Info, Stop
from domains.control.protocol import ControlError, Exit, MachineEnded
from domains.xenctl.folder import (
    LOCK,
    LOG,
    folder_of,
    is_running,
    listens,
    make_folder,
    private_files,
    supervisor_pid,
    take_lock,
)
from hypervisor.public.types import PAGES_PER_MIB

DEFAULT: Final = "default"
START_TIMEOUT: Final = 30.0
"""Seconds until Dom0 of a new machine must have answered."""
STOP_TIMEOUT: Final = 10.0
GRACE: Final = 3.0
"""Seconds given to Dom0 to end the machine before its supervisor is told to."""
POLL: Final = 0.005
LOOK: Final = 0.1
"""Seconds after which it is looked at again whether a machine that starts is still there."""
LOG_END: Final = 1 << 16
"""Bytes of a log's end in which the last line is looked for."""

DEFAULT_MEMORY: Final = 4096
DEFAULT_CPUS: Final = 2
MIN_MEMORY: Final = 32


def connect(name: str) -> ControlClient:
    """A client of a running machine. Raises ControlError if there is none."""
    folder = folder_of(name)
    if not is_running(folder):
        start = "xenctl start" if name == DEFAULT else f"xenctl start --machine {name}"
        raise ControlError(Exit.FAILURE, f"machine '{name}' is not running; start it with '{start}'")
    wait_for(lambda: listens(folder) or not is_running(folder), START_TIMEOUT)
    return ControlClient(MachineAddress.in_folder(folder))


def ensure_started(name: str) -> None:
    """Start the machine with default settings unless it runs."""
    folder = folder_of(name)
    if not is_running(folder) and not start_machine(name, DEFAULT_MEMORY, DEFAULT_CPUS):
        wait_for(lambda: listens(folder) or not is_running(folder), START_TIMEOUT)


def start_machine(name: str, memory: int, cpus: int, uplinks: Sequence[str] = ()) -> bool:
    """Start a machine with `memory` MiB; returns when its Dom0 answers. False if one runs already.

    Raises ControlError if it does not come up.
    """
    log = launch(name, memory, cpus, uplinks, detach)
    if log is None:
        return False
    try:
        await_dom0(name, folder_of(name), log)
    finally:
        os.close(log)
    return True


def launch(
    name: str, memory: int, cpus: int, uplinks: Sequence[str], fork: Callable[[Callable[[], None]], None]
) -> int | None:
    """Begin a machine's life: `fork` runs its supervisor in another process. A descriptor of its log, or None
    if a machine of that name runs.
    """
    folder = folder_of(name)
    make_folder(folder)
    try:
        lock = take_lock(folder)
    except OSError:
        with suppress(OSError):  # unless something is in it
            folder.rmdir()
        raise
    if lock is None:
        return None
    try:
        for entry in folder.iterdir():
            if entry.name != LOCK:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        with private_files():
            log = os.open(folder / LOG, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        fork(lambda: supervise(name, folder, memory, cpus, uplinks, lock, log))
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(lock)
    return log


def detach(body: Callable[[], None]) -> None:
    """Run `body` in a process of its own session that is nobody's child any more."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            body()
    except BaseException:  # noqa: BLE001 - the outermost frame of a process: report, then leave
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


def supervise(
    name: str, folder: Path, memory: int, cpus: int, uplinks: Sequence[str], lock: int, log: int
) -> None:
    """The supervisor's whole life. The lock stays held until it ends; if it cannot even begin, the folder goes."""
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, fd)
    os.chdir("/")
    os.umask(0o077)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        from domains.xenctl.template import run_machine

        run_machine(name, folder, memory * PAGES_PER_MIB, cpus, uplinks, lock)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def await_dom0(name: str, folder: Path, log: int) -> None:
    """Wait until Dom0 answers. Raises ControlError with the last line of the log if the machine dies
    first.
    """
    deadline = time.monotonic() + START_TIMEOUT
    with ControlClient(MachineAddress.in_folder(folder)) as client:
        client.post(Info())
        while is_running(folder):
            with suppress(MachineEnded):
                if client.receive(LOOK) is not None:
                    return
            if time.monotonic() > deadline:
                raise ControlError(
                    Exit.TIMED_OUT,
                    f"machine '{name}' did not answer within {START_TIMEOUT:g} s; see {folder / LOG}",
                )
    raise ControlError(Exit.FAILURE, f"machine '{name}' did not start: {last_words(log)}")


def last_words(log: int) -> str:
    """The last line of a machine's log."""
    end = os.pread(log, LOG_END, max(os.fstat(log).st_size - LOG_END, 0)).decode(errors="replace")
    return next((line.strip() for line in reversed(end.split("\n")) if line.strip()), "no reason was given")


def stop_machine(name: str) -> None:
    """End a machine and everything in it; returns when nothing of it is left. Raises ControlError."""
    folder = folder_of(name)
    pid = supervisor_pid(folder)
    with connect(name) as client:
        client.post(Stop())
        with suppress(MachineEnded):
            client.receive(GRACE)
        if not wait_for(lambda: not is_running(folder), GRACE) and pid is not None:
            os.kill(pid, signal.SIGTERM)
    if not wait_for(lambda: not is_running(folder), STOP_TIMEOUT):
        raise ControlError(Exit.TIMED_OUT, f"machine '{name}' did not end; kill process {pid}")


def wait_for(condition: Callable[[], bool], timeout: float) -> bool:
    """Look at `condition` until it holds; False after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True
