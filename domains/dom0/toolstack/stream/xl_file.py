"""xl's own header of a saved domain, in front of libxl's stream: it holds the domain's description.

    magic[32] | byte order 0x01020304 | mandatory flags | optional flags | length of what follows
    length of the description u32 | the description, as JSON with a NUL behind it

The description is libxl's (libxl_domain_config), which xl reads; under `xenoscope`, which xl passes over, it stands once more as
this toolstack has it. Source: Xen tools/xl/xl.h, xl_saverestore.c, xl_vmcontrol.c.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Final

from domains.dom0.toolstack.stream.checksums import Altered
from domains.dom0.toolstack.stream.errors import EndOfStream, StreamError
from domains.dom0.toolstack.stream.framing import Counted
from domains.kernel.tasks import Task

MAGIC: Final = b"Xen saved domain, xl format\n \0 \r"
HEADER: Final = struct.Struct("<32sIIII")
LENGTH: Final = struct.Struct("<I")
BYTE_ORDER: Final = 0x01020304
JSON: Final = 1
STREAM_V2: Final = 2
MAX_DESCRIPTION: Final = 1 << 22
OWN: Final = "xenoscope"


def header(libxl: dict[str, Any], own: Any) -> bytes:
    """The header with a description as libxl has it, and as this toolstack has it, in plain data."""
    description = json.dumps({**libxl, OWN: own}).encode() + b"\0"
    rest = LENGTH.pack(len(description)) + description
    return HEADER.pack(MAGIC, BYTE_ORDER, JSON | STREAM_V2, 0, len(rest)) + rest


def read_header(stream: Counted) -> Task[Any]:
    """The description as this toolstack writes it, in plain data; None: there is none. Raises StreamError."""
    try:
        first = bytes((yield from stream.read(HEADER.size)))
        magic, order, mandatory, _, length = HEADER.unpack(first)
        _check(magic, order, mandatory, length)
        rest = bytes((yield from stream.read(length)))
    except EndOfStream:
        raise EndOfStream("xl's header: the file ends within it") from None
    except Altered as altered:
        raise StreamError(f"xl's header: {altered}") from None
    return _description(rest, is_json=bool(mandatory & JSON))


def _check(magic: bytes, order: int, mandatory: int, length: int) -> None:
    if magic != MAGIC:
        raise StreamError("xl's header: this is no saved domain")
    if order != BYTE_ORDER:
        raise StreamError("xl's header: it is of a big-endian machine")
    if unknown := mandatory & ~(JSON | STREAM_V2):
        raise StreamError(f"xl's header: flags {unknown:#x}, which a newer xl may know")
    if not mandatory & STREAM_V2:
        raise StreamError("xl's header: what follows is in the format of Xen 4.5")
    if length > MAX_DESCRIPTION:
        raise StreamError(f"xl's header: a description of {length} bytes")


def _description(rest: bytes, *, is_json: bool) -> Any:
    if not rest:
        return None
    if len(rest) < LENGTH.size or LENGTH.unpack_from(rest)[0] > len(rest) - LENGTH.size:
        raise StreamError("xl's header: the description is longer than the header has room for it")
    (length,) = LENGTH.unpack_from(rest)
    if not is_json:
        return None
    text = rest[LENGTH.size : LENGTH.size + length].rstrip(b"\0")
    try:
        whole = json.loads(text)
        own = whole.get(OWN) if isinstance(whole, dict) else None
        json.dumps(own, ensure_ascii=False).encode()  # \ud800 alone is JSON, and no text
    except (ValueError, RecursionError) as error:
        raise StreamError(f"xl's header: its description is no JSON: {error}") from None
    return own
