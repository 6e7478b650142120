"""What a hostile 32-bit PV guest does: the steps of hostile_guests.py in its layouts, with 64-bit numbers in two arguments."""

import struct
from collections.abc import Callable

from hypervisor.public.arch_x86.xen import VGCF_in_kernel
from hypervisor.public.arch_x86.xen_x86_32 import xen_pfn_to_cr3
from hypervisor.public.compat import CompatLayout, compat_vcpu_guest_context
from hypervisor.public.layout import Struct
from hypervisor.public.types import U32
from hypervisor.public.xen import Hypercall
from tests.hypervisor.hostile_guests import (
    ARGUMENTS,
    CALLS,
    DESCRIPTORS,
    NESTED,
    Call,
    Chooser,
    Step,
    event_call,
    fill,
    multicall,
    pin_call,
    plain_call,
    va_call,
)

HOLE = 0xF580_0000


class NarrowChooser(Chooser):
    """Draws the steps of a 32-bit guest."""

    def va(self) -> int:
        return super().va() & U32 if self.chance.random() < 0.95 else HOLE + self.chance.choice([0, 4, 4095])

    def record(self, struct: type[Struct]) -> bytes:
        layout = self.domain.abi.layout(struct)
        narrow = layout.struct if isinstance(layout, CompatLayout) else struct
        raw = bytearray(narrow.sizeof)
        fill(self, raw, narrow.dtype, 0, "")
        return bytes(raw)

    def array(self) -> bytes:
        if self.chance.random() < 0.5:
            return super().array()
        return b"".join(
            (self.mfn() & U32).to_bytes(4, "little") for _ in range(self.chance.choice([1, 4, 64]))
        )

    def context(self) -> bytes:
        table = xen_pfn_to_cr3(self.top_table() & U32 >> 12)
        registers = compat_vcpu_guest_context(flags=int(VGCF_in_kernel))
        registers.ctrlreg = tuple(table if i == 3 else 0 for i in range(8))
        return registers.pack()

    def calls(self) -> list[Callable[[Chooser], Call]]:
        return NARROW_CALLS

    def step(self) -> Step:
        step = super().step()
        if step[1] != "call":
            return step
        who, kind, nr, args, pokes = step
        return (who, kind, nr & U32, tuple(arg & U32 for arg in args), pokes)


def halves(number: int) -> tuple[int, int]:
    """A 64-bit number as two arguments."""
    return number & U32, number >> 32 & U32


def narrow_pin_call(c: Chooser) -> Call:
    """As pin_call."""
    raw = struct.pack("<III", c.chance.choice([0, 1, 2, 3, 4]), c.table() & U32, 0)
    return Hypercall.mmuext_op, (ARGUMENTS, 1, 0, 0x7FF0), ((ARGUMENTS, raw),)


def narrow_va_call(c: Chooser) -> Call:
    """As va_call."""
    nr, (va, entry, *rest), pokes = va_call(c)
    return nr, (va, *halves(entry), *rest), pokes


def narrow_descriptor_call(c: Chooser) -> Call:
    """update_descriptor."""
    return Hypercall.update_descriptor, (*halves(c.maddr()), *halves(c.chance.choice(DESCRIPTORS))), ()


def narrow_multicall(c: Chooser) -> Call:
    """As multicall."""
    entries = b""
    for _ in range(c.chance.choice([1, 2, 4])):
        nr, args, _ = c.chance.choice([narrow_va_call, narrow_pin_call, event_call, plain_call])(c)
        words = [int(nr) & U32, 0, *(int(arg) & U32 for arg in args)]
        entries += struct.pack("<8I", *(words + [0] * 8)[:8])
    return Hypercall.multicall, (NESTED, len(entries) // 32), ((NESTED, entries),)


_INSTEAD: dict[Callable[[Chooser], Call], Callable[[Chooser], Call]] = {
    pin_call: narrow_pin_call,
    va_call: narrow_va_call,
    multicall: narrow_multicall,
}
NARROW_CALLS = [*(_INSTEAD.get(call, call) for call in CALLS), narrow_descriptor_call]
