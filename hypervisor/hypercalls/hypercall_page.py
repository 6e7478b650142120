"""The hypercall page of PV guests: 32 bytes for each hypercall (Xen arch/x86/pv/hypercall.c).

    64-bit   push %rcx; push %r11; mov $nr, %eax; syscall; pop %r11; pop %rcx; ret     `syscall` loses rcx and r11
    32-bit   mov $nr, %eax; int $0x82; ret

iret never returns: in front of the frame at the stack pointer it pushes the registers that its call needs.
"""

from typing import Final

from hypervisor.domain.domain import Kind
from hypervisor.public.types import PAGE_SIZE
from hypervisor.public.xen import Hypercall

STUB: Final = 32


def filled(before: bytes, after: bytes, iret_before: bytes, iret_after: bytes) -> bytes:
    """A page of stubs that load their number between these instructions."""
    page = bytearray(b"\xcc" * PAGE_SIZE)
    for nr in range(PAGE_SIZE // STUB):
        mov = b"\xb8" + nr.to_bytes(4, "little")
        stub = iret_before + mov + iret_after if nr == Hypercall.iret else before + mov + after
        page[nr * STUB : nr * STUB + len(stub)] = stub
    return bytes(page)


def hypercall_page() -> bytes:
    """Of a 64-bit PV guest."""
    return filled(b"\x51\x41\x53", b"\x0f\x05\x41\x5b\x59\xc3", b"\x51\x41\x53\x50", b"\x0f\x05")


def compat_hypercall_page() -> bytes:
    """Of a 32-bit PV guest."""
    return filled(b"", b"\xcd\x82\xc3", b"\x50", b"\xcd\x82")


HYPERCALL_PAGES: Final = {Kind.PV64: hypercall_page, Kind.PV32: compat_hypercall_page}
