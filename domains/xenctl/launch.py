"""How a machine begins: its folder, its supervisor's process, and the wait until its Dom0 answers."""

from __future__ import annotations

import gc
import os
import select
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from domains.carrier.door import Door
from domains.control.description import DomainConfig
from domains.control.operations import Info
from domains.control.protocol import ControlError, Exit, MachineEnded
from domains.xenctl.folder import LOCK, LOG, folder_of, make_folder, private_files, take_lock
from domains.xenctl.machine import GRACE, START_TIMEOUT, no_answer, reach
from hypervisor.public.types import PAGES_PER_MIB

LOG_END: Final = 1 << 16
"""Bytes of a log's end in which the last line is looked for."""

DEFAULT_MEMORY: Final = 4096
DEFAULT_CPUS: Final = 2
MIN_MEMORY: Final = 32
DEFAULT_SCHEDULER: Final = "credit2"


class Hardware(NamedTuple):
    """What a machine is started with: memory in MiB, emulated CPUs and their scheduler (`slice_ns`: how long its slices are;
    None: as is usual with it), and connections with the host's network.
    `guest`: the domain that it is started for; `listen`: HOST:PORT where other machines may connect to send domains.
    """

    memory: int = DEFAULT_MEMORY
    cpus: int = DEFAULT_CPUS
    uplinks: Sequence[str] = ()
    sched: str = DEFAULT_SCHEDULER
    slice_ns: int | None = None
    seed: int | None = None
    guest: DomainConfig | None = None
    listen: str | None = None


class Born(NamedTuple):
    """Descriptors of a machine that begins: its log, and what becomes readable when its supervisor has ended."""

    log: int
    ended: int


def start_machine(name: str, hardware: Hardware) -> bool:
    """Start a machine; returns when its Dom0 answers. False if one runs already. If it has a seed, this process must have
    begun by `repeatable` (domains/xenctl/seeded.py).

    Raises ControlError if it does not come up.
    """
    born = launch(name, hardware, detach)
    if born is None:
        return False
    try:
        await_dom0(name, folder_of(name), born)
    finally:
        for fd in born:
            os.close(fd)
    return True


def launch(name: str, hardware: Hardware, fork: Callable[[Callable[[], None]], int]) -> Born | None:
    """Begin a machine's life: `fork` runs its supervisor in another process, and returns what becomes readable when that has
    ended. None if a machine of that name runs.
    """
    check_scheduler(hardware)
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
        door = None if hardware.listen is None else opened(hardware.listen)
        with private_files():
            log = os.open(folder / LOG, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        ended = fork(lambda: supervise(name, folder, hardware, lock, log, door))
        if door is not None:
            os.close(door.fd)
    except (OSError, ControlError):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(lock)
    return Born(log, ended)


def opened(listen: str) -> Door:
    """A listening socket at HOST:PORT. Raises ControlError."""
    import socket

    host, _, port = listen.rpartition(":")
    try:
        family, kind, _proto, _name, address = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(16)
    except OSError as error:
        raise ControlError(Exit.FAILURE, f"cannot listen at {listen}: {error.strerror or error}") from None
    name, number = listener.getsockname()[:2]
    place = f"[{name}]:{number}" if family == socket.AF_INET6 else f"{name}:{number}"
    return Door(listener.detach(), place)


def check_scheduler(hardware: Hardware) -> None:
    """Raises ControlError for a scheduler that there is not, or a slice that it does not have."""
    if hardware.sched == DEFAULT_SCHEDULER and hardware.slice_ns is None:
        return
    from hypervisor.public.errno import XenError
    from hypervisor.sched.policies import make_scheduler

    try:
        make_scheduler(hardware.sched, hardware.slice_ns)
    except XenError as error:
        raise ControlError(Exit.USAGE, error.reason) from None


def detach(body: Callable[[], None]) -> int:
    """Run `body` in a process of its own session that is nobody's child any more. What is returned becomes readable when that
    has ended: a pipe, of which it alone has the other end.
    """
    ended, held = os.pipe()
    child = os.fork()
    if child:
        os.close(held)
        os.waitpid(child, 0)
        return ended
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
    name: str, folder: Path, hardware: Hardware, lock: int, log: int, door: Door | None = None
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
        gc.disable()
        from domains.xenctl.template import run_machine
        from hypervisor.machine.config import MachineConfig

        gc.enable()

        config = MachineConfig(
            name=name,
            folder=folder,
            memory_frames=hardware.memory * PAGES_PER_MIB,
            nr_cpus=hardware.cpus,
            sched=hardware.sched,
            slice_ns=hardware.slice_ns,
            seed=hardware.seed,
            lock_fd=lock,
        )
        run_machine(config, hardware.uplinks, hardware.guest, door)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def await_dom0(name: str, folder: Path, born: Born) -> None:
    """Wait until Dom0 answers. Raises ControlError with the last line of the log if the machine dies first."""
    deadline = time.monotonic() + START_TIMEOUT
    try:
        client = reach(folder, lambda: not within(0, born.ended), START_TIMEOUT)
        if client is not None:
            with client:
                client.post(Info())
                if client.receive(max(deadline - time.monotonic(), 0)) is not None:
                    return
        raise no_answer(name, folder)
    except MachineEnded:
        within(GRACE, born.ended)
        reason = f"machine '{name}' did not start: {last_words(born.log)}"
        raise ControlError(Exit.FAILURE, reason) from None


def within(seconds: float, descriptor: int) -> bool:
    """Whether it becomes readable in this time. By poll(2): the caller may be a program with so many files open that select(2)
    refuses the number.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def last_words(log: int) -> str:
    """The last line of a machine's log."""
    end = os.pread(log, LOG_END, max(os.fstat(log).st_size - LOG_END, 0)).decode(errors="replace")
    return next((line.strip() for line in reversed(end.split("\n")) if line.strip()), "no reason was given")
