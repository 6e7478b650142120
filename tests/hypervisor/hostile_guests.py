"""What hostile guests do: random hypercalls with plausible and impossible arguments, drawn from one seed.

A step is plain data, so that a failing sequence can be printed and kept as a test
(test_random_hypercalls.py):

    (who, "call", nr, args, ((va, bytes), …))     write these bytes at these addresses, then make the hypercall
    (who, "entry", ref, bytes)                    write a grant entry
    (who, "scribble", mfn, offset, bytes)         a hostile process writes into a frame of its memfd, whatever it is
    (who, "post", ((post, where, value), …))      its process does what is certain to be permitted, and tells it later
    (who, "tell", bytes)                          a hostile process posts whatever it likes
    (who, "die")                                  its process is killed

Numbers are chosen by the name of the field they go into: a frame where a frame is wanted, now and then
anything.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hypervisor.domain.domain import Domain
from hypervisor.domain.hypervisor import Hypervisor
from hypervisor.mm.layout import XEN_FRAMES
from hypervisor.public import xen
from hypervisor.public.arch_x86.xen import VGCF_in_kernel, vcpu_guest_context
from hypervisor.public.callback import callback_register, callback_unregister
from hypervisor.public.errno import XenError
from hypervisor.public.grant_table import grant_entry_v1
from hypervisor.public.layout import Struct
from hypervisor.public.physdev import physdev_irq_status_query, physdev_map_pirq, physdev_set_iopl
from hypervisor.public.types import DomId
from hypervisor.public.xen import Hypercall, mmu_update, mmuext_op, multicall_entry
from tests.hypervisor.hostile_arguments import EVENT_OPS, GRANT_OPS, MEMORY_OPS, SCHED_OPS, VCPU_OPS
from tests.hypervisor.posting_process import words_of
from tests.recount import is_table

Step = tuple[Any, ...]
PAGES = 32
"""Pages a guest begins with: 0-3 its page tables, 4-27 mapped at their number, 28-31 mapped nowhere."""
MAPPED = range(4, 28)
ARGUMENTS, NESTED = 26 << 12, 27 << 12
"""Where arguments, and the arrays that arguments point to, are written if they are writable."""
CONTEXT_AT = 24 << 12
"""Where a vCPU's registers are, which need more than a page."""
EXTREMES = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 4096, 2**64 - 1]
SPECIAL_DOMIDS = [0x7FF0, 0x7FF0, 0x7FF1, 0x7FF2, 0x7FF3, 0x7FF4, 0x7FFF, 0xFFFF, 77]
PTE_FLAGS = [
    0,
    0,
    1,
    3,
    5,
    5,
    5,
    7,
    7,
    7,
    0x63,
    0x67,
    0x27,
    0x107,
    0x87,
    0x1F,
    0xE07,
    7 | 1 << 63,
    7 | 1 << 52,
    7 | 1 << 62,
]
DESCRIPTORS = [
    0,
    0x00CF_FB00_0000_FFFF,
    0x00CF_F300_0000_FFFF,
    0x0000_8200_0000_FFFF,
    0x0000_8E00_0000_0000,
    2**64 - 1,
]


@dataclass
class Chooser:
    """Draws one step of guest `who`; `domain` and `others` say what exists at the moment."""

    hv: Hypervisor
    who: int
    domain: Domain
    others: list[Domain]
    chance: random.Random
    hostile_process: bool
    owned: dict[DomId, list[int]] = field(default_factory=dict)
    """The frames of the domains that were asked for: nothing changes while one step is drawn."""

    # --- numbers -----------------------------------------------------------------------------------------

    def frame_of(self, domain: Domain) -> int:
        if domain.domid not in self.owned:
            owners = self.hv.frames.owner_np[: self.hv.frames.top]
            self.owned[domain.domid] = (
                np.flatnonzero(owners[XEN_FRAMES:] == domain.domid) + XEN_FRAMES
            ).tolist()
        owned = self.owned[domain.domid]
        return owned[self.chance.randrange(len(owned))] if owned else 0

    def mfn(self) -> int:
        kind = self.chance.random()
        if kind < 0.75:
            return self.frame_of(self.domain)
        if kind < 0.87:
            return self.frame_of(self.chance.choice(self.others))
        if kind < 0.95:
            return self.chance.choice(
                [0, 1, 2, 3, 1024, 33791, 33792, 50175, 50176, 2**24 - 1, 2**24, 2**40 - 1, 2**52]
            )
        return self.chance.choice(EXTREMES)

    def table(self) -> int:
        """A frame that is a page table now, or any."""
        frames = self.hv.frames
        owners, types = frames.owner_np[XEN_FRAMES : frames.top], frames.type_np[XEN_FRAMES : frames.top]
        mine = np.flatnonzero((owners == self.domain.domid) & is_table(types)) + XEN_FRAMES
        return (
            int(self.chance.choice(mine.tolist())) if len(mine) and self.chance.random() < 0.8 else self.mfn()
        )

    def va(self) -> int:
        if self.chance.random() < 0.85:
            page: int = self.chance.choice([*MAPPED, 0, 1, 2, 3, 28, 29, 31, 32, 511])
            return (page << 12) + self.chance.choice([0, 0, 0, 0, 8, 64, 2048, 4088, 4095])
        return int(
            self.chance.choice([0xFFFF_8000_0000_0000, 0xFFFF_8200_0000_0000, 0x7FFF_FFFF_F000, *EXTREMES])
        )

    def maddr(self) -> int:
        return (
            (self.table() << 12) + self.chance.choice([8 * self.chance.randrange(40), 8 * 511, 4, 0])
        ) & 2**64 - 1

    def pte(self) -> int:
        if self.chance.random() < 0.05:
            return self.chance.getrandbits(64)
        return (self.mfn() << 12 | self.chance.choice(PTE_FLAGS)) & 2**64 - 1

    def domid(self) -> int:
        if self.chance.random() < 0.7:
            return int(
                self.chance.choice([0x7FF0, self.domain.domid, *(other.domid for other in self.others)])
            )
        return self.chance.choice(SPECIAL_DOMIDS)

    def count(self) -> int:
        return self.chance.choice([0, 1, 1, 1, 2, 3, 8, 64, 512, 4096, *EXTREMES])

    def number(self, name: str) -> int:
        """A value for a field of that name."""
        for part, choose in NUMBERS:
            if part in name:
                return choose(self)
        return self.chance.choice([0, 0, 1, 2, 3, 4, 7, self.chance.getrandbits(16), *EXTREMES])

    def record(self, struct: type[Struct]) -> bytes:
        """A structure with a number in each of its fields."""
        raw = bytearray(struct.sizeof)
        fill(self, raw, struct.dtype, 0, "")
        return bytes(raw)

    def array(self) -> bytes:
        """What an argument's pointer leads to: frames, entries, descriptors or ports."""
        kinds: list[Callable[[], int]] = [self.mfn, self.pte, lambda: self.chance.choice(DESCRIPTORS)]
        choose = self.chance.choice(kinds)
        return b"".join(
            (choose() & 2**64 - 1).to_bytes(8, "little") for _ in range(self.chance.choice([1, 4, 64]))
        )

    def context(self) -> bytes:
        """First registers for another vCPU, on one of the tables there are."""
        registers = vcpu_guest_context(flags=int(VGCF_in_kernel))
        user = self.chance.choice([0, self.table()])
        registers.ctrlreg = (0, user << 12 & 2**64 - 1, 0, self.top_table() << 12 & 2**64 - 1, 0, 0, 0, 0)
        return registers.pack()

    def top_table(self) -> int:
        """The one that the first vCPU has, or any table."""
        used = self.domain.vcpus[0].mem.cr3
        return self.table() if used is None or self.chance.random() < 0.3 else int(used)

    def post(self) -> tuple[int, int, int]:
        """Something that a guest would like to do to its page tables."""
        kind = self.chance.choice([0, 0, 0, 0, 0, 0, 1, 2, 3])
        if kind == 3:
            return (kind, self.chance.choice([*EXTREMES, self.hv.now() + 1000]), 0)
        if kind:
            return (kind, self.chance.choice([self.top_table(), self.table(), 0]) % 2**52, 0)
        return (kind, self.maddr() | self.chance.choice([0, 0, 1]), self.pte())

    def can_write_arguments(self) -> bool:
        try:
            self.hv.mmu.guest.check_writable(self.domain.vcpus[0].mem, ARGUMENTS, 4096)
        except XenError:
            return False
        return True

    def calls(self) -> list[Callable[["Chooser"], "Call"]]:
        return CALLS

    # --- steps -------------------------------------------------------------------------------------------

    def step(self) -> Step:
        kind = self.chance.random()
        if kind < 0.2 and not self.can_write_arguments():
            return (self.who, "die")  # nothing it asks gets through any more
        if kind < 0.08:
            flags = self.chance.choice([1, 1, 1, 5, 2, 3, 0, 0x19, 0x101, self.chance.getrandbits(16)])
            entry = grant_entry_v1(flags=flags, domid=self.domid() & 0xFFFF, frame=self.mfn() & 2**32 - 1)
            return (self.who, "entry", self.chance.randrange(16), entry.pack())
        if kind < 0.14 and self.hostile_process:
            data = self.chance.choice(
                [self.pte().to_bytes(8, "little"), bytes(4096), self.chance.randbytes(64)]
            )
            return (self.who, "scribble", self.frame_of(self.domain), 8 * self.chance.randrange(512), data)
        if 0.14 <= kind < 0.142:
            return (self.who, "die")
        if 0.142 <= kind < 0.3:
            return (self.who, "post", tuple(self.post() for _ in range(self.chance.choice([1, 2, 3, 20]))))
        if 0.3 <= kind < 0.302 and self.hostile_process:
            untrue = [self.post() for _ in range(self.chance.choice([1, 2, 3, 20]))]
            nonsense = (self.chance.getrandbits(3), self.mfn(), self.pte())
            return (self.who, "tell", words_of(self.chance.choice([untrue, untrue, [*untrue, nonsense]])))
        nr, args, pokes = self.chance.choice(self.calls())(self)
        return (self.who, "call", int(nr), tuple(int(arg) & 2**64 - 1 for arg in args), pokes)


NUMBERS: list[tuple[str, Callable[[Chooser], int]]] = [
    ("dom", Chooser.domid),
    ("ref", lambda c: c.chance.choice([*range(16), 511, 512, 2**32 - 1])),
    ("port", lambda c: c.chance.choice([*range(10), 63, 64, 4095, 4096, 2**32 - 1])),
    ("handle", lambda c: c.chance.choice([*range(6), 255, 256, 2**32 - 1])),
    ("host_addr", lambda c: c.maddr() if c.chance.random() < 0.3 else c.va()),
    ("new_addr", lambda c: c.chance.choice([0, c.va()])),
    ("dev_bus_addr", lambda c: c.chance.choice([0, c.mfn() << 12])),
    ("frame_list", lambda c: c.chance.choice([NESTED, c.va()])),
    ("extent_start", lambda c: c.chance.choice([NESTED, NESTED + 512, c.va()])),
    ("extent_order", lambda c: c.chance.choice([0, 0, 0, 0, 1, 9, 18, 2**32 - 1])),
    ("nr_extents", lambda c: c.chance.choice([0, 1, 1, 2, 4, 64, 512, *EXTREMES])),
    ("nr_exchanged", lambda c: c.chance.choice([0, 0, 0, 1, 2**63, 2**64 - 1])),
    ("mem_flags", lambda c: c.chance.choice([0, 0, 0, 64, 0x20000, 0xFF00, 2**32 - 1])),
    ("offset", lambda c: c.chance.choice([0, 0, 8, 64, 4032, 4088, 4095, 4096, 65535, 2**32 - 1])),
    ("len", lambda c: c.chance.choice([0, 1, 8, 4088, 4096, 4097, 65535])),
    ("flags", lambda c: c.chance.choice([0, 1, 2, 2, 3, 4, 5, 6, 7, 10, 18, 0xFFFF, 2**32 - 1])),
    ("virq", lambda c: c.chance.choice([*range(25), 2**32 - 1])),
    ("vcpu", lambda c: c.chance.choice([0, 0, 1, 1, 31, 2**32 - 1])),
    ("mfn", Chooser.mfn),
    ("frame", Chooser.mfn),
    ("gpfn", Chooser.mfn),
    ("nr_", Chooser.count),
    ("ptr", lambda c: c.maddr() | c.chance.choice([0, 0, 0, 0, 1, 2, 3])),
    ("val", Chooser.pte),
    ("cmd", lambda c: c.chance.choice([*range(20), 2**32 - 1])),
    ("addr", Chooser.va),
    ("timeout", lambda c: c.chance.choice([0, 1, 2**63, c.hv.now()])),
]


def fill(chooser: Chooser, raw: bytearray, dtype: Any, at: int, name: str) -> None:
    """Numbers into all fields of a dtype, nested ones too; a union gets the first of its arms that it draws."""
    if dtype.subdtype is not None:
        return
    if dtype.names is None:
        value = chooser.number(name) & (1 << 8 * dtype.itemsize) - 1
        if dtype.itemsize <= 8:
            raw[at : at + dtype.itemsize] = value.to_bytes(dtype.itemsize, "little")
        return
    fields = [(inner, *dtype.fields[inner][:2]) for inner in dtype.names]
    if len(fields) > 1 and len({offset for _, _, offset in fields}) == 1:
        fields = [chooser.chance.choice(fields)]
    for inner, kind, offset in fields:
        fill(chooser, raw, kind, at + offset, inner)


Call = tuple[int, tuple[int, ...], tuple[tuple[int, bytes], ...]]


def with_struct(
    c: Chooser, nr: int, head: tuple[int, ...], struct: type[Struct] | None, tail: tuple[int, ...] = ()
) -> Call:
    """A hypercall whose last pointer leads to one structure; now and then the pointer is wrong."""
    raw = b"" if struct is None else c.record(struct)
    va = ARGUMENTS if c.chance.random() < 0.95 else c.va()
    return nr, (*head, va, *tail), ((va, raw), (NESTED, c.array()))


def with_array(
    c: Chooser, nr: int, head: tuple[int, ...], struct: type[Struct], tail: tuple[int, ...] = ()
) -> Call:
    count = c.chance.choice([1, 1, 1, 2, 3, 5])
    raw = b"".join(c.record(struct) for _ in range(count))
    told = count if c.chance.random() < 0.95 else c.count()
    return nr, (*head, ARGUMENTS, told, *tail), ((ARGUMENTS, raw), (NESTED, c.array()))


def event_call(c: Chooser) -> Call:
    op = c.chance.choice(list(EVENT_OPS))
    return with_struct(c, Hypercall.event_channel_op, (op,), EVENT_OPS[op])


def grant_call(c: Chooser) -> Call:
    op = c.chance.choice(list(GRANT_OPS))
    return with_array(c, Hypercall.grant_table_op, (op,), GRANT_OPS[op])


def memory_call(c: Chooser) -> Call:
    op = c.chance.choice(list(MEMORY_OPS))
    return with_struct(c, Hypercall.memory_op, (op | c.chance.choice([0, 0, 0, 0, 64]),), MEMORY_OPS[op])


def sched_call(c: Chooser) -> Call:
    op = c.chance.choice(list(SCHED_OPS))
    return with_struct(c, Hypercall.sched_op, (op,), SCHED_OPS[op])


def vcpu_call(c: Chooser) -> Call:
    op = c.chance.choice([0, 0, 1, 1, *VCPU_OPS])
    if op == 0 and c.chance.random() < 0.7:
        return Hypercall.vcpu_op, (op, 1, CONTEXT_AT), ((CONTEXT_AT, c.context()),)
    return with_struct(c, Hypercall.vcpu_op, (op, c.number("vcpu")), VCPU_OPS[op])


def pin_call(c: Chooser) -> Call:
    """Pin or unpin something at a level: random mmuext_ops rarely get both right."""
    op = mmuext_op(cmd=c.chance.choice([0, 1, 2, 3, 4]))
    op.arg1 = xen.mmuext_op_arg1(mfn=c.table() & 2**64 - 1)
    return Hypercall.mmuext_op, (ARGUMENTS, 1, 0, 0x7FF0), ((ARGUMENTS, op.pack()),)


def va_call(c: Chooser) -> Call:
    flags = c.chance.choice([0, 1, 2, 3, 4, ARGUMENTS | 2, 2**64 - 1])
    if c.chance.random() < 0.1:
        return Hypercall.update_va_mapping_otherdomain, (c.va(), c.pte(), flags, c.domid()), ()
    return Hypercall.update_va_mapping, (c.va(), c.pte(), flags), ()


def multicall(c: Chooser) -> Call:
    """A few calls that need no memory of their own."""
    entries = b""
    for _ in range(c.chance.choice([1, 2, 4])):
        nr, args, _ = c.chance.choice([va_call, pin_call, event_call, plain_call])(c)
        words = [int(arg) & 2**64 - 1 for arg in args]
        entries += multicall_entry(op=int(nr), args=tuple(words + [0] * (6 - len(words)))).pack()
    return Hypercall.multicall, (NESTED, len(entries) // multicall_entry.sizeof), ((NESTED, entries),)


def plain_call(c: Chooser) -> Call:
    """Hypercalls that take numbers only."""
    nr, args = c.chance.choice(
        [
            (Hypercall.set_gdt, (NESTED, c.chance.choice([0, 1, 512, 7168, 7169, 2**32 - 1]))),
            (Hypercall.update_descriptor, (c.maddr(), c.chance.choice(DESCRIPTORS))),
            (Hypercall.set_trap_table, (c.chance.choice([0, NESTED, c.va()]),)),
            (Hypercall.set_callbacks, (c.va(), c.va(), c.va())),
            (Hypercall.vm_assist, (c.chance.choice([0, 1, 2, 9]), c.chance.choice([*range(6), 2**32 - 1]))),
            (Hypercall.set_timer_op, (c.chance.choice([0, 1, 2**63, c.hv.now() + 1000]),)),
            (Hypercall.console_io, (c.chance.choice([0, 1, 2]), c.count(), c.va())),
            (Hypercall.xen_version, (c.chance.choice(range(12)), c.va())),
            (Hypercall.sysctl, (c.va(),)),
            (Hypercall.domctl, (c.va(),)),
            (c.chance.choice([5, 8, 9, 23, 25, 28, 40, 55, 2**31, 2**63]), (c.va(), c.va())),
        ]
    )
    return nr, args, ((NESTED, c.array()),)


CALLS: list[Callable[[Chooser], Call]] = [
    event_call,
    event_call,
    grant_call,
    grant_call,
    grant_call,
    memory_call,
    memory_call,
    pin_call,
    va_call,
    va_call,
    lambda c: with_array(c, Hypercall.mmu_update, (), mmu_update, (0, c.domid())),
    lambda c: with_array(c, Hypercall.mmu_update, (), mmu_update, (0, 0x7FF0)),
    lambda c: with_array(c, Hypercall.mmuext_op, (), mmuext_op, (0, c.domid())),
    lambda c: with_array(c, Hypercall.mmuext_op, (), mmuext_op, (0, 0x7FF0)),
    multicall,
    plain_call,
    lambda c: with_struct(c, Hypercall.callback_op, (0,), callback_register),
    lambda c: with_struct(c, Hypercall.callback_op, (1,), callback_unregister),
    sched_call,
    vcpu_call,
    lambda c: with_struct(c, Hypercall.physdev_op, (c.chance.choice([5, 9]),), physdev_irq_status_query),
    lambda c: with_struct(c, Hypercall.physdev_op, (6,), physdev_set_iopl),
    lambda c: with_struct(c, Hypercall.physdev_op, (13,), physdev_map_pirq),
]
