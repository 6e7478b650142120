"""The process that has the network's end of migrations, so that nobody out there reaches Dom0: xeno-carrier.

    supervisor ──fork──► xeno-carrier ──fork──► one process a connection that Dom0 wishes for (outgoing.py)
                              ▲     └────fork──► one for all that come (incoming.py), if the machine listens; again if it ends
    Dom0 ◄──── CARRY, CARRIED ┘                  each hands Dom0, or is handed, one end of a stream socket

What is authenticated and encrypted here by ZeroMQ's CURVE is a plain stream of bytes for Dom0, as the one that another machine of
the same user opens in this one's folder. These processes see no domain's memory but what goes over, and their end ends the
connections they carry, nothing else. libzmq ends its process when it is out of descriptors, which strangers can bring about.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Final

from domains.carrier.door import Door
from hypervisor.wire import descriptors
from hypervisor.wire.descriptors import Note

PR_SET_PDEATHSIG: Final = 1
AGAIN_SECONDS: Final = 1.0
"""Between two starts of the process that listens."""


def serve(requests: socket.socket, machine: str, door: Door | None) -> None:
    """The body of xeno-carrier, until Dom0's end of `requests` is closed."""
    listener = -1 if door is None else listening(requests, machine, door)
    started = time.monotonic()
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    if listener >= 0:
        poll.register(listener, select.POLLIN)
    while True:
        for fd, _events in poll.poll():
            if fd == requests.fileno():
                received = descriptors.receive(requests)
                if received is None:
                    return
                carry(received, machine)
            elif door is not None:
                poll.unregister(listener)
                os.close(listener)
                time.sleep(max(0.0, started + AGAIN_SECONDS - time.monotonic()))
                listener, started = listening(requests, machine, door), time.monotonic()
                poll.register(listener, select.POLLIN)
        reap()


def carry(received: descriptors.Received, machine: str) -> None:
    """Begin a connection that Dom0 wishes for."""
    try:
        if received.note[0] == Note.CARRY:
            _, place, key = received.note
            fork(lambda: out(received.fds[0], machine, place, key))
    finally:
        received.close()


def out(fd: int, machine: str, place: str, key: str) -> None:
    """The body of a process for one connection."""
    from domains.carrier.outgoing import carry_out

    carry_out(socket.socket(fileno=fd), machine, place, bytes.fromhex(key))


def listening(requests: socket.socket, machine: str, door: Door) -> int:
    """Start the process that listens; a descriptor that is readable when it has ended."""

    def body() -> None:
        from domains.carrier.incoming import listen

        listen(requests, machine, os.dup(door.fd), door.place)

    return os.pidfd_open(fork(body))


def fork(body: Callable[[], None]) -> int:
    """Run `body` in a process that ends with this one; its process id."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == parent:
            body()
        status = 0
    except BaseException:  # noqa: BLE001 - the outermost frame of a process: report, then leave
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def reap() -> None:
    """Let go of those that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
