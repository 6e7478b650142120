"""What a source says of the domain before any of it goes over, and the reasons that either side gives."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgpack

from domains.control.arguments import Count
from domains.control.description import MAX_DEVICES, MAX_PATH, DomainConfig
from domains.control.records import Length, Malformed, Matches, Range, Record, decode, encode

VERSION: Final = 1
"""Of what two machines say to each other."""
MIGRATION_ID: Final = re.compile("[0-9a-f]{32}")
MAX_REASON: Final = 1024

MigrationId = Annotated[str, Matches(MIGRATION_ID)]
"""128 bits drawn at random: who knows it is one of the two, and may ask what was decided."""


class DiskOffer(Record):
    """An image of the domain: the file's name at the source, its size in bytes, and whether it is `copied` to the target or both
    machines see it under this name.
    """

    devid: Annotated[int, Range(0, (1 << 32) - 1)]
    path: Annotated[str, Length(MAX_PATH)]
    size: Count
    copied: bool


class Offer(Record):
    """A domain on its way: its description; `pages`: the frames it has; `cpu`: what its CPU can, as a digest of Xen's policy;
    `paused`: whether it is to stay paused at the target.
    """

    version: Annotated[int, Range(VERSION, VERSION)]
    id: MigrationId
    config: DomainConfig
    pages: Count
    cpu: Annotated[str, Length(64)]
    disks: Annotated[tuple[DiskOffer, ...], Length(MAX_DEVICES)] = ()
    paused: bool = False


class Question(Record):
    """What was decided about this migration?"""

    id: MigrationId


class Reason(Record):
    """Why something is not."""

    why: Annotated[str, Length(4 * MAX_REASON)]


class Accepted(Record):
    """The target takes the domain; `warnings`: in what it will differ there."""

    warnings: tuple[Annotated[str, Length(4 * MAX_REASON)], ...] = ()


class Ran(Record):
    """The domain runs at the target, under this id."""

    domid: Annotated[int, Range(0, 0x7FFF)] | None = None


def body_of(record: Record) -> bytes:
    """A frame's body."""
    body: bytes = msgpack.packb(encode(record))
    return body


def reason(why: str) -> bytes:
    """The body of a frame that says why."""
    return body_of(Reason(" ".join(why.encode("utf-8", "replace").decode().split())[:MAX_REASON]))


def read_body(kind: Any, body: bytes, what: str) -> Any:
    """The record of type `kind` in a frame's body. Raises Malformed."""
    try:
        plain = msgpack.unpackb(body)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
        raise Malformed(f"{what} is no map") from None
    return decode(kind, plain, what)


def why_of(body: bytes) -> str:
    """The reason in a frame's body, whatever the other side has put there."""
    try:
        said: Reason = read_body(Reason, body, "the reason")
    except Malformed:
        return "it gives no reason"
    return "".join(letter if letter.isprintable() else "?" for letter in said.why)
