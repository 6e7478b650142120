"""What two Dom0s say to each other over a stream of bytes when a domain migrates, cut into frames.

    kind u8 | size u32, little-endian | body          a Word; a body has at most what LARGEST says of its kind

The body of OFFER, ASK and those that give a reason is msgpack (domains/dom0/toolstack/migrating/offer.py); DATA's is a piece of
the domain's stream. Nothing is remembered of a connection but one frame.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final


class Word(IntEnum):
    """A frame's kind. What each one means in which phase: domains/dom0/toolstack/migrating/agreement.py."""

    OFFER = 1
    ACCEPT = 2
    REFUSE = 3
    DATA = 4
    READY = 5
    GO = 6
    RAN = 7
    DROPPED = 8
    GONE = 9
    CANCEL = 10
    ASK = 11
    WAITING = 12
    PING = 13
    """I am there; nothing else."""
    LOST = 14
    """Of the carrier, before anything else: there is no connection, and why. No machine says it."""


PIECE: Final = 1 << 19
"""Bytes of DATA in one frame."""
LARGEST: Final = {Word.OFFER: 4 << 20, Word.DATA: PIECE}
"""Bytes of a body by its kind."""
OTHERS_LARGEST: Final = 4096

_HEAD = struct.Struct("<BI")
HEAD_SIZE: Final = _HEAD.size


class NotAFrame(Exception):
    """The other side is no machine of this version; `str()` is one line."""


def head(word: Word, size: int) -> bytes:
    """What comes before a body of so many bytes."""
    return _HEAD.pack(word, size)


def frame(word: Word, body: bytes = b"") -> bytes:
    """A whole frame."""
    return _HEAD.pack(word, len(body)) + body


def parse_head(data: bytes) -> tuple[Word, int]:
    """The kind of a frame and the size of its body. Raises NotAFrame before a byte of the body is taken."""
    kind, size = _HEAD.unpack(data)
    try:
        word = Word(kind)
    except ValueError:
        raise NotAFrame(f"it says what no machine of this version says (a frame of kind {kind})") from None
    if size > LARGEST.get(word, OTHERS_LARGEST):
        raise NotAFrame(f"it says more than can be ({word.name} of {size} bytes)")
    return word, size
