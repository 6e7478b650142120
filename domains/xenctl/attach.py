"""A domain's console in this terminal, or in a pipe.

From a terminal: keys go to the domain one by one, Ctrl-] or another escape leaves. From a pipe or a file: the input goes to
the domain as it comes, and its end ends the input alone. Output comes from the oldest byte that Dom0 keeps,
until the domain ends.
"""

from __future__ import annotations

import os
import select
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from domains.control.client import ControlClient
from domains.control.operations import ConsoleDetach, ConsoleInput, Created, Ended
from domains.control.protocol import ControlError, Exit
from domains.xenctl.output import print_error, print_warning, write_bytes

ESCAPE: Final = b"\x1d"
"""Ctrl-]"""
CHUNK: Final = 4096
IFLAG, OFLAG, CFLAG, LFLAG, _ISPEED, _OSPEED, CC = range(7)


def follow(client: ControlClient, request: int, escape: bytes = ESCAPE) -> None:
    """Show the stream that answers `request`, pass on the input until a terminal sends `escape`. Raises ControlError if the
    domain crashed.
    """
    reader = sys.stdin.fileno() if sys.stdin is not None and not sys.stdin.closed else None
    with raw_terminal(reader):
        ended = exchange(client, request, reader, escape)
    if ended is None:
        client.post(ConsoleDetach())
        return
    print_error(f"the domain ended: {ended}")
    if ended == "crash":
        raise ControlError(Exit.CRASHED, "the domain crashed; 'xenctl dmesg' says why")


def exchange(client: ControlClient, request: int, reader: int | None, escape: bytes) -> str | None:
    """Move bytes both ways; why the domain ended, or None if the user left. Raises ControlError."""
    poll = select.poll()
    poll.register(client.fd, select.POLLIN)
    if reader is not None:
        poll.register(reader, select.POLLIN)
    while True:
        while (reply := client.receive(0)) is not None:
            if reply.id == request and (ended := show(reply.result())) is not None:
                return ended
        for fd, _events in poll.poll():
            if fd != reader:
                continue
            data = read_input(reader)
            if not data:
                poll.unregister(reader)
                reader = None
                continue
            before, leaves, _ = data.partition(escape) if os.isatty(reader) else (data, b"", b"")
            if before:
                client.post(ConsoleInput(before))
            if leaves:
                return None


def read_input(reader: int) -> bytes:
    """What is there; nothing at the end."""
    try:
        return os.read(reader, CHUNK)
    except OSError:
        return b""


def show(result: Any) -> str | None:
    """Write output, or the warnings about a domain that was made; why the domain ended if the result says so."""
    if isinstance(result, bytes):
        write_bytes(result)
    if isinstance(result, Created):
        for warning in result.warnings:
            print_warning(warning)
    return result.ended if isinstance(result, Ended) else None


@contextmanager
def raw_terminal(fd: int | None) -> Iterator[None]:
    """Keys as they are pressed, unless `fd` is no terminal; a newline still begins at the left."""
    if fd is None or not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    raw = termios.tcgetattr(fd)
    raw[IFLAG] &= ~(termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON)
    raw[LFLAG] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
    raw[CC][termios.VMIN], raw[CC][termios.VTIME] = 1, 0
    termios.tcsetattr(fd, termios.TCSADRAIN, raw)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
