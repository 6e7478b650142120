"""The supervisor: the parent of every process of a machine, and the warm template that they are forked from.

It holds no guest state, no ZeroMQ context and no thread, so that a fork of it is cheap and safe. It forks
what the core asks for, reaps,
and ends the machine: when the core is gone, for whatever reason, nothing of the machine is left within a second.

    core ──FORK──► supervisor ──fork──► domain process, service of Dom0 (die with the supervisor: PDEATHSIG)
         ◄─FORKED (pidfd)──  ◄──pipe── its last words, LAST_WORDS bytes at most

What a domain's process prints goes through a pipe into the machine's log, so that no domain can fill the disk with it. Dom0,
which is trusted, writes there itself.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import select
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from hypervisor.machine.config import MachineConfig
from hypervisor.wire import descriptors
from hypervisor.wire.descriptors import Note

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38
PR_SET_NAME: Final = 15

LAST_WORDS: Final = 64 * 1024
"""Bytes that one domain's process may print into the machine's log, in all."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Service:
    """A process that serves Dom0 from the beginning: `run(pair)`, where Dom0 holds the other end of `pair`. It alone goes on
    with the descriptors `own`.
    """

    name: str
    pair: socket.socket
    run: Callable[[socket.socket], None]
    own: tuple[int, ...] = ()


@dataclass(frozen=True)
class Entries:
    """What forked processes run. `core(config, pair to the supervisor, pidfd of the supervisor)`;
    `domain(domid, endpoint path, pair to the core, mailbox)`.

    The others are called in the supervisor, and what they load, all processes share that are forked later: `warm()` while the
    core begins, `ahead()` while Dom0 does, and `prepare(domid, mailbox)` before each domain's process is forked.
    """

    core: Callable[[MachineConfig, socket.socket, int], None]
    domain: Callable[[int, str, socket.socket, int], None]
    services: tuple[Service, ...] = ()
    prepare: Callable[[int, int], None] = lambda _domid, _mailbox: None
    warm: Callable[[], None] = lambda: None
    ahead: Callable[[], None] = lambda: None


class Supervisor:
    """Forks the core, Dom0 and the domains of one machine, reaps them, and ends the machine when the core ends."""

    def __init__(self, config: MachineConfig, entries: Entries) -> None:
        self.config = config
        self.entries = entries
        self.children: set[int] = set()
        self._poll = select.poll()
        self._words: dict[int, int] = {}
        """Pipe of a domain's process -> bytes that it may still print."""
        self.core_pid = 0
        self.ending = False

    def run(self) -> None:
        """Run the machine to its end. The folder exists; it is removed."""
        become("xeno-supervisor", dies_with_parent=False)
        raise_limits()
        gc.freeze()
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        self.pair, core_end = descriptors.pair()
        try:
            self.core_pid = self._fork_core(core_end)
            core_end.close()
            self.entries.warm()
            for service in self.entries.services:
                self._fork_service(service)
            self._loop(wake_read)
        finally:
            self._end()

    def _on_signal(self, number: int, _frame: object) -> None:
        if number != signal.SIGCHLD:
            self.ending = True

    def _fork_core(self, core_end: socket.socket) -> int:
        supervisor_pidfd = os.pidfd_open(os.getpid())

        def core() -> None:
            become("xeno-core", dies_with_parent=False)
            self.entries.core(self.config, core_end, supervisor_pidfd)

        lock = {self.config.lock_fd} if self.config.lock_fd >= 0 else set()
        pid = self._fork(core, keep={core_end.fileno(), supervisor_pidfd} | lock)
        os.close(supervisor_pidfd)
        return pid

    def _fork_service(self, service: Service) -> None:
        def body() -> None:
            become(service.name, dies_with_parent=True)
            service.run(service.pair)

        self._fork(body, keep={service.pair.fileno(), *service.own})
        service.pair.close()
        for fd in service.own:
            os.close(fd)

    def _loop(self, wake_read: int) -> None:
        poll = self._poll
        poll.register(wake_read, select.POLLIN)
        poll.register(self.pair.fileno(), select.POLLIN)
        while not self.ending:
            for fd, _events in poll.poll():
                if fd == wake_read:
                    os.read(wake_read, 4096)
                elif fd in self._words:
                    self._on_words(fd)
                else:
                    self._on_note()
            self._reap()

    def _on_note(self) -> None:
        received = descriptors.receive(self.pair)
        if received is None or received.note[0] == Note.STOP:
            self.ending = True
        elif received.note[0] == Note.FORK:
            _, domid, path = received.note
            self._fork_domain(domid, path, received.fds)
            if domid == 0:
                self.entries.ahead()

    def _fork_domain(self, domid: int, path: str, fds: list[int]) -> None:
        pair_fd, mailbox_fd = fds
        self.entries.prepare(domid, mailbox_fd)
        words, out = os.pipe2(os.O_CLOEXEC)

        def domain() -> None:
            become(f"xeno-dom{domid}", dies_with_parent=True)
            if domid:
                os.dup2(out, 1)
                os.dup2(out, 2)
            os.close(out)
            self.entries.domain(domid, path, socket.socket(fileno=pair_fd), mailbox_fd)

        self._words[words] = LAST_WORDS
        self._poll.register(words, select.POLLIN)
        try:
            inherited = () if domid else self.config.dom0_fds
            pid = self._fork(domain, keep={pair_fd, mailbox_fd, out, *inherited})
        except OSError:
            descriptors.send(self.pair, [Note.FORKED, domid, 0])
        else:
            pidfd = os.pidfd_open(pid)
            descriptors.send(self.pair, [Note.FORKED, domid, pid], (pidfd,))
            os.close(pidfd)
        finally:
            for fd in (pair_fd, mailbox_fd, out):
                os.close(fd)

    def _on_words(self, fd: int) -> None:
        """A domain's process printed something, or is gone."""
        words = os.read(fd, min(4096, self._words[fd]))
        self._words[fd] -= len(words)
        os.write(2, words)
        if not words or not self._words[fd]:
            self._poll.unregister(fd)
            del self._words[fd]
            os.close(fd)

    def _fork(self, body: Callable[[], None], keep: set[int]) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self.children.add(pid)
            return pid
        _in_child(body, keep, parent)

    def _reap(self) -> None:
        while self.children:
            pid, _status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self.children.discard(pid)
            if pid == self.core_pid:
                self.ending = True

    def _end(self) -> None:
        """Kill and reap everything, then remove the machine's folder. Idempotent."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self.pair.close()
        if self.core_pid in self.children and not self._reaped(self.core_pid, seconds=0.3):
            os.kill(self.core_pid, signal.SIGKILL)
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
        for pid in list(self.children):
            os.waitpid(pid, 0)
        shutil.rmtree(self.config.folder, ignore_errors=True)

    def _reaped(self, pid: int, seconds: float) -> bool:
        """Give the core a moment to leave by itself."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if os.waitpid(pid, os.WNOHANG)[0]:
                self.children.discard(pid)
                return True
            time.sleep(0.005)
        return False


def _in_child(body: Callable[[], None], keep: set[int], parent: int) -> NoReturn:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        close_all_but({0, 1, 2} | keep)
        if os.getppid() != parent:
            os._exit(1)
        body()
        status = 0
    except BaseException:  # noqa: BLE001 - the outermost frame of a process: report, then leave
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def become(name: str, *, dies_with_parent: bool) -> None:
    """Name the process, tie it to the supervisor's life, and keep siblings of the same user out of its
    memory (docs/trust.md)."""
    _libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    if dies_with_parent:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def close_all_but(keep: set[int]) -> None:
    """An empty range must not reach os.closerange: CPython 3.11 turns (0, 0) into (0, -1), which is everything."""
    start = 0
    for fd in sorted(keep):
        if fd > start:
            os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def raise_limits() -> None:
    """As many descriptors as the host allows; no core dumps of guests' memory."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
