"""Makes bzImages around any payload."""

from __future__ import annotations

import struct


def bzimage(payload: bytes, sectors: int = 3) -> bytes:
    """A bzImage around a packed payload, which lies 100 bytes into the protected-mode code."""
    head = bytearray((sectors + 1) * 512)
    head[0x1F1] = sectors
    head[0x1FE:0x200] = b"\x55\xaa"
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, 0x020F)
    struct.pack_into("<II", head, 0x248, 100, len(payload))
    return bytes(head) + bytes(100) + payload + bytes(50)
