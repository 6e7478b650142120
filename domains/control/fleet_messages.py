"""What a fleet's head, its agents and `xenctl fleet` say to each other: records in msgpack, {"is": name, …fields}.

    agent → head      Join, Renew, Answer        head → agent      Granted, Refused, Order, Goodbye
    xenctl → head     Order                      head → xenctl     Answer

Who sent a message is known by the key of its connection (fleet_link.py), never by what it says.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgpack

from domains.control.records import Length, Malformed, Range, Record, decode, encode

MAX_MESSAGE: Final = 4 << 20
"""Bytes of the largest message."""
CHUNK: Final = 1 << 20
"""Bytes of a file in one message."""

Number = Annotated[int, Range(0, (1 << 63) - 1)]
Word = Annotated[str, Length(64)]
Text = Annotated[str, Length(2 << 20)]
"""JSON."""
Data = Annotated[bytes, Length(CHUNK)]


class Join(Record):
    """A host has begun as this incarnation, with nothing running. `about`: what its machine is called, and where it
    is reached.
    """

    incarnation: Number
    about: Text


class Renew(Record):
    """`stamp`: ns of the agent's own clock when this was sent."""

    incarnation: Number
    stamp: Number


class Granted(Record):
    """The lease lasts `until`, ns of the agent's own clock."""

    incarnation: Number
    until: Number


class Refused(Record):
    """This incarnation is never granted anything again."""

    incarnation: Number


class Order(Record):
    """Do `what`, with what `about` says in JSON, and `data`; answer with the same `id`."""

    id: Number
    what: Word
    about: Text = "{}"
    data: Data = b""


class Answer(Record):
    """To an order. `error`: it was not done, and why, in one line; `about`: what came of it, in JSON."""

    id: Number
    error: Text | None = None
    about: Text = "{}"


class Goodbye(Record):
    """The host is no part of the fleet any more: stop everything, and end."""


MESSAGES: Final[dict[str, type[Record]]] = {
    kind.__name__: kind for kind in (Join, Renew, Granted, Refused, Order, Answer, Goodbye)
}


def pack(message: Record) -> bytes:
    """As it goes over the wire."""
    return bytes(msgpack.packb({"is": type(message).__name__, **encode(message)}))


def unpack(data: bytes) -> Record:
    """Raises Malformed for anything but one of MESSAGES."""
    try:
        plain: Any = msgpack.unpackb(data)
    except (ValueError, msgpack.exceptions.UnpackException):
        raise Malformed("a message is not msgpack") from None
    kind = MESSAGES.get(str(plain.pop("is", ""))) if isinstance(plain, dict) else None
    if kind is None:
        raise Malformed("a message is none of those there are")
    found: Record = decode(kind, plain, "a message")
    return found
