"""What a client and Dom0 say to each other over the socket `privcmd` (docs/xl.md); the client's side: domains/xenctl/xen_client.

    Dom0 ──► Greeting
    client ──► Header, body          one request at a time
    Dom0 ──► Reply, data             in the same order

All numbers are little-endian. A `size` is that of what follows the record which says it.
"""

from enum import IntEnum
from typing import Annotated, Final

from hypervisor.public.layout import Struct, i64, u32, u64

MAGIC: Final = b"privcmd1"
"""What a greeting begins with; another version has another one."""
PIECES_MAX: Final = 256
"""Pieces of memory in one request."""


class Kind(IntEnum):
    """`kind` of a Header."""

    HYPERCALL = 1
    CONSOLE = (
        2  # body: a DomainRequest; after the reply the connection is the domain's console, bytes both ways
    )
    CONFIGURATION = 3  # body: a DomainRequest; the data of the reply are libxl's `libxl-json` of it
    MAP = 4  # body: a Mapping; the result is its number, the data are Places; memfds come with the reply's first byte
    UNMAP = 5  # body: an Unmapping


class Greeting(Struct, size=32):
    """What Dom0 says first: where the arguments of hypercalls lie, and the longest body of a request."""

    magic: Annotated[bytes, 8]  # MAGIC
    window: u64  # address of the first page
    pages: u32  # how many there are
    _pad: u32
    longest: u64  # bytes


class Header(Struct, size=8):
    """What each request begins with."""

    size: u32
    kind: u32  # Kind


class Hypercall(Struct, size=56):
    """Body of a HYPERCALL: this, `pieces` times a Piece, and the bytes of all pieces in the same order."""

    nr: u64
    args: Annotated[tuple[u64, ...], 5]
    pieces: u32
    _pad: u32


class Piece(Struct, size=16):
    """A part of the window which the client uses."""

    address: u64
    size: u64


class DomainRequest(Struct, size=8):
    """Body of a request that is about one domain."""

    domid: u32
    _pad: u32


class Mapping(Struct, size=16):
    """Body of a MAP: this, and `count` frame numbers of 8 bytes. All of them are mapped, or none."""

    domid: u32
    writable: u32
    count: u32
    _pad: u32


class Place(Struct, size=16):
    """Where a frame is: which of the descriptors, and at which page of that."""

    descriptor: u64
    page: u64


class Unmapping(Struct, size=8):
    """Body of an UNMAP: the number that MAP gave."""

    number: u64


class Reply(Struct, size=16):
    """The result, negative for an error. What follows, of a HYPERCALL that was performed: the bytes of all pieces as they are
    now.
    """

    result: i64
    size: u64
