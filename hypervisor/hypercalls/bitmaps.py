"""Sets of CPUs in a caller's memory, xenctl_bitmap (Xen common/bitmap.c): as a mask, in which bit n is CPU n."""

from __future__ import annotations

from typing import Final

from hypervisor.hypercalls.call import Call
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.xen import xenctl_bitmap

MAX_BITMAP_BYTES: Final = 4096
"""Bytes of a caller's bitmap that are filled. Xen fills half a GiB byte by byte, if it is asked to; here that is E2BIG."""


def read_bitmap(call: Call, bitmap: xenctl_bitmap, nbits: int) -> int:
    """The first `nbits` bits; what the caller's bitmap does not have is 0. XenError(EFAULT)."""
    size = min(-(-bitmap.nr_bits // 8), -(-nbits // 8))
    raw = call.copy_from_guest(bitmap.bitmap, size) if size else b""
    return int.from_bytes(raw, "little") & ((1 << min(nbits, bitmap.nr_bits)) - 1)


def write_bitmap(call: Call, bitmap: xenctl_bitmap, mask: int) -> None:
    """As many bits as the caller has room for; those above the mask are 0. XenError(EFAULT, E2BIG)."""
    size = -(-bitmap.nr_bits // 8)
    if size > MAX_BITMAP_BYTES:
        raise XenError(Errno.E2BIG, f"a bitmap of {bitmap.nr_bits} bits")
    if size:
        kept = mask & ((1 << 8 * size) - 1)
        call.copy_to_guest(bitmap.bitmap, kept.to_bytes(size, "little"))
