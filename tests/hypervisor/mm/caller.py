"""A guest that makes memory hypercalls through the real dispatcher, with its arguments in its own memory.

The guest is built as a toolstack builds one: its page tables are pinned and its frames mapped from VIRT_BASE on. All
of a test's arguments lie in one scratch page.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from hypervisor.mm.budget import Budget
from hypervisor.public.layout import Struct
from hypervisor.public.types import PAGE_SHIFT
from hypervisor.public.xen import DOMID_SELF, Hypercall
from tests.inprocess import Built, InProcess, hypervisor_in_process
from tests.recount import recount

DONE = 0xFF0
"""Where in the scratch page `done` is told."""


class Caller:
    """One guest; `portions` bounds the entries of each portion of its hypercalls."""

    def __init__(self, machine: InProcess, built: Built) -> None:
        self.machine = machine
        self.built = built
        self.d = built.domain.mem
        self.v = built.vcpu.mem
        self.mmu = machine.hv.mmu
        self.scratch = int(built.scratch)

    def put(self, data: bytes, offset: int = 0) -> int:
        """Store bytes in the scratch page; their address."""
        self.mmu.guest.copy_to_guest(self.v, self.scratch + offset, data)
        return self.scratch + offset

    def get(self, offset: int, size: int) -> bytes:
        return self.mmu.guest.copy_from_guest(self.v, self.scratch + offset, size)

    def numbers(self, values: list[int], offset: int = 0) -> int:
        return self.put(np.array(values, dtype=np.uint64).tobytes(), offset)

    def read_numbers(self, count: int, offset: int = 0) -> list[int]:
        found: list[int] = np.frombuffer(self.get(offset, 8 * count), dtype=np.uint64).tolist()
        return found

    def record(self, record: Struct, offset: int = 0) -> int:
        return self.put(record.pack(), offset)

    def call(self, nr: int, *args: int) -> int:
        """The hypercall's result, every count checked after it."""
        result = self.machine.hypercall(self.built.vcpu, int(nr), *args)
        assert isinstance(result, int)
        self.recount()
        return result

    def recount(self) -> None:
        recount(self.mmu, self.held())

    def held(self) -> list[tuple[int, bool]]:
        """What lies with other rooms: nothing in these tests but registered areas."""
        domains = self.machine.hv.domains.values()
        frames = [v.info_frame for domain in domains for v in domain.vcpus if v.info_frame is not None]
        return [(int(mfn), True) for mfn in frames]

    def memory_op(self, op: int, arg: int) -> int:
        return self.call(Hypercall.memory_op, int(op), arg)

    def mmu_update(self, requests: list[tuple[int, int]], foreigndom: int = DOMID_SELF) -> tuple[int, int]:
        """(result, done)."""
        at = self.put(np.array(requests, dtype=np.uint64).tobytes())
        self.put(bytes(4), DONE)
        result = self.call(Hypercall.mmu_update, at, len(requests), self.scratch + DONE, foreigndom)
        return result, int.from_bytes(self.get(DONE, 4), "little")

    def mmuext_op(self, *ops: Struct, foreigndom: int = DOMID_SELF) -> tuple[int, int]:
        """(result, done)."""
        at = self.put(b"".join(op.pack() for op in ops))
        self.put(bytes(4), DONE)
        result = self.call(Hypercall.mmuext_op, at, len(ops), self.scratch + DONE, foreigndom)
        return result, int.from_bytes(self.get(DONE, 4), "little")

    def spare(self, n: int = 1) -> list[int]:
        """Frames that nothing maps, new ones each time."""
        return [int(self.mmu.allocator.alloc_page(self.d)) for _ in range(n)]

    def write(self, mfn: int, slot: int, value: int) -> None:
        """A plain store, as through a writable mapping."""
        self.machine.memory.frames[mfn, slot] = value

    def l1_of(self, va: int) -> tuple[int, int]:
        """(L1 table, slot) that map an address."""
        walk = self.mmu.walker.walk(self.v, va)
        return int(walk.l1), va >> PAGE_SHIFT & 511


@contextmanager
def callers(nr_guests: int = 1) -> Iterator[list[Caller]]:
    """Callers: the control domain and `nr_guests` guests."""
    with hypervisor_in_process() as machine:
        built = [machine.build(privileged=True), *(machine.build() for _ in range(nr_guests))]
        yield [Caller(machine, one) for one in built]


@contextmanager
def tiny_portions(machine: InProcess, entries: int) -> Iterator[None]:
    """Every portion of every hypercall looks at this many entries at most."""
    from unittest.mock import patch

    init = Budget.__init__

    def tiny(self: Budget, entries_wanted: int = entries) -> None:
        init(self, entries)

    with patch.object(Budget, "__init__", tiny):
        yield
