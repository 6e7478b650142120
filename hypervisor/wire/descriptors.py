"""Descriptors travel over SOCK_SEQPACKET pairs inherited at the fork (SCM_RIGHTS), beside one small msgpack list.

Four kinds of pair: core ↔ supervisor (`FORK`, `FORKED`), core ↔ domain process (`MEMFD`, `BOUND`), Dom0 → its unpacker
(`UNPACK`), Dom0 ↔ its carrier (`CARRY`, `CARRIED`).
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

import msgpack

MAX_NOTE: Final = 16384
MAX_DESCRIPTORS: Final = 4


class Note(IntEnum):
    """The first element of a note; its other elements beside it."""

    FORK = (
        1  # core → supervisor: domid, endpoint path; the domain's end of its pair and its mailbox ride along
    )
    FORKED = 2  # supervisor → core: domid, pid (0: the fork failed); a pidfd rides along
    MEMFD = 3  # core → process: memfd id; the memfd rides along
    BOUND = 4  # process → core: the endpoint accepts its connection
    READY = 5  # core → supervisor: Dom0 runs
    STOP = 6  # core → supervisor: the machine ends
    UNPACK = 7  # Dom0 → unpacker: name, kernel, ramdisk, MiB, PVH; a memfd for the pages and a socket for the answer ride along
    CARRY = 8  # Dom0 → carrier: HOST:PORT, public key; a socket to be connected with the machine there rides along
    CARRIED = 9  # carrier → Dom0: public key and address of a machine that has connected; a socket to it rides along


@dataclass
class Received:
    """One note and the descriptors that came with it; whoever receives it owns them."""

    note: list[Any]
    fds: list[int] = field(default_factory=list)

    def close(self) -> None:
        """Closes the descriptors that came with the message."""
        for fd in self.fds:
            os.close(fd)


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair that keeps message boundaries."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, note: list[Any], fds: tuple[int, ...] = ()) -> None:
    """Send one note; raises OSError when the other side is gone, BlockingIOError when its queue is full."""
    socket.send_fds(sock, [msgpack.packb(note)], list(fds))


def receive(sock: socket.socket) -> Received | None:
    """The next note, or None when the other side is gone. Raises ValueError for what is no note (its descriptors are closed)."""
    data, fds, _flags, _address = socket.recv_fds(sock, MAX_NOTE, MAX_DESCRIPTORS)
    if not data:
        return None
    received = Received([], list(fds))
    try:
        note = msgpack.unpackb(data, max_map_len=0, max_ext_len=0)
        if type(note) is not list or not note or type(note[0]) is not int:
            raise ValueError("not a note")
    except (ValueError, msgpack.UnpackException):
        received.close()
        raise ValueError("not a note") from None
    received.note = note
    return received
