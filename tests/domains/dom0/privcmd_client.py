"""A client of a machine's privcmd socket in a few lines of Python, which can also say what no honest client says."""

from __future__ import annotations

import mmap
import os
import socket
from pathlib import Path
from types import TracebackType

from domains.dom0.privcmd.messages import (
    MAGIC,
    Greeting,
    Header,
    Hypercall,
    Kind,
    Mapping,
    Piece,
    Place,
    Reply,
)


class PrivcmdClient:
    """Connected with the machine in that folder; `greeting` is what Dom0 said."""

    def __init__(self, folder: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(str(folder / "privcmd"))
        self.greeting = Greeting.unpack(self.receive(Greeting.sizeof))
        assert self.greeting.magic == MAGIC

    def __enter__(self) -> PrivcmdClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.socket.close()

    def receive(self, size: int) -> bytes:
        """So many bytes; fewer if Dom0 cuts the connection."""
        data = b""
        while len(data) < size and (part := self.socket.recv(size - len(data))):
            data += part
        return data

    def request(self, kind: int, body: bytes) -> tuple[int, bytes]:
        """The result, and what comes with it."""
        self.socket.sendall(Header(size=len(body), kind=kind).pack() + body)
        return self.reply()

    def reply(self) -> tuple[int, bytes]:
        """The next reply."""
        reply = Reply.unpack(self.receive(Reply.sizeof))
        return reply.result, self.receive(reply.size)

    def map(self, domid: int, frames: list[int], *, writable: bool = True) -> tuple[int, list[mmap.mmap]]:
        """The mapping's number, or an error; each frame, mapped in this process."""
        body = Mapping(domid=domid, writable=int(writable), count=len(frames)).pack()
        body += b"".join(frame.to_bytes(8, "little") for frame in frames)
        self.socket.sendall(Header(size=len(body), kind=Kind.MAP).pack() + body)
        head, fds, _flags, _address = socket.recv_fds(self.socket, Reply.sizeof, 4)
        reply = Reply.unpack(head)
        places = Place.array(self.receive(reply.size), reply.size // Place.sizeof)
        pages = [
            mmap.mmap(fds[place["descriptor"]], 4096, offset=int(place["page"]) * 4096) for place in places
        ]
        for fd in fds:
            os.close(fd)
        return reply.result, pages

    def hypercall(self, nr: int, *args: int, at: int = 0, data: bytes = b"") -> tuple[int, bytes]:
        """Perform a hypercall with `data` at address `at`, if there is any; its result and the bytes there afterwards."""
        return self.request(Kind.HYPERCALL, body_of(nr, *args, pieces=[(at, data)] if data else []))


def body_of(nr: int, *args: int, pieces: list[tuple[int, bytes]]) -> bytes:
    """The body of a request for a hypercall."""
    head = Hypercall(nr=nr, args=(*args, *(0,) * (5 - len(args))), pieces=len(pieces)).pack()
    heads = [Piece(address=address, size=len(data)).pack() for address, data in pieces]
    return head + b"".join(heads) + b"".join(data for _, data in pieces)
