"""libxl's domain image format, version 2: a header in big-endian order, then records.

Written here: LIBXC_CONTEXT, behind which libxc's stream lies, and END. A PV domain has no emulator, and so has none of their
records. Source: Xen docs/specs/libxl-migration-stream.pandoc.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from domains.dom0.toolstack.stream.errors import StreamError
from domains.dom0.toolstack.stream.framing import Counted, Layer
from domains.kernel.tasks import Task

HEADER: Final = struct.Struct(">QII")
IDENT: Final = int.from_bytes(b"LibxlFmt", "big")
VERSION: Final = 2
BIG_ENDIAN, LEGACY = 1, 2
"""Bits of the header's options."""


class LibxlRecord(IntEnum):
    """Types of records."""

    END = 0
    LIBXC_CONTEXT = 1
    EMULATOR_XENSTORE_DATA = 2
    EMULATOR_CONTEXT = 3
    CHECKPOINT_END = 4
    CHECKPOINT_STATE = 5


LIBXL: Final = Layer("libxl", {int(kind): kind.name for kind in LibxlRecord}, {})
"""Records with a body are known by name, and refused by their length: there are none in a domain without an emulator."""


def header() -> bytes:
    """That of a stream written here."""
    return HEADER.pack(IDENT, VERSION, 0)


def read_header(stream: Counted) -> Task[None]:
    """Read and check it. Raises StreamError."""
    at = stream.offset
    ident, version, options = yield from stream.header(HEADER, "libxl's header")
    where = f"libxl's header at byte {at}"
    if ident != IDENT:
        raise StreamError(f"{where}: it does not begin with LibxlFmt")
    if version != VERSION:
        raise StreamError(f"{where}: version {version}, and not {VERSION}")
    if options & BIG_ENDIAN:
        raise StreamError(f"{where}: it is of a big-endian machine")
    if options & LEGACY:
        raise StreamError(f"{where}: it was converted from the format of Xen 4.5")
