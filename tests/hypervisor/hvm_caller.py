"""An HVM guest that makes hypercalls through the real dispatcher; its vCPU runs unpaged unless a test gives it page tables."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from hypervisor.domain.domain import Domain
from hypervisor.public.grant_table import grant_entry_v1
from hypervisor.public.layout import Struct
from hypervisor.public.memory import xen_add_to_physmap, xen_remove_from_physmap
from hypervisor.public.types import DomId
from hypervisor.public.xen import DOMID_SELF, Hypercall
from tests.hypervisor.mm.caller import Caller
from tests.inprocess import InProcess, hypervisor_in_process
from tests.recount import recount
from tests.recount_grants import grant_references, recount_grants

ARGUMENTS = 0x2000
"""Guest physical address of a page for arguments."""


class HvmCaller:
    """One translated domain of 64 pages."""

    def __init__(self, machine: InProcess, domain: Domain) -> None:
        self.machine = machine
        self.domain = domain
        self.d = domain.mem
        self.vcpu = domain.vcpus[0]
        self.mmu = machine.hv.mmu

    def mfn(self, gfn: int) -> int | None:
        assert self.d.p2m is not None
        return self.d.p2m.mfn(gfn)

    def write(self, gpa: int, data: bytes) -> int:
        """Store bytes at a guest physical address within a page; the address."""
        mfn = self.mfn(gpa >> 12)
        assert mfn is not None
        self.machine.memory.write(mfn << 12 | gpa & 4095, data)
        return gpa

    def read(self, gpa: int, size: int) -> bytes:
        mfn = self.mfn(gpa >> 12)
        assert mfn is not None
        return self.machine.memory.read(mfn << 12 | gpa & 4095, size)

    def record(self, record: Struct, at: int = ARGUMENTS) -> int:
        return self.write(at, record.pack())

    def call(self, nr: int, *args: int) -> int:
        """The hypercall's result, every count checked after it."""
        result = self.machine.hypercall(self.vcpu, int(nr), *args)
        assert isinstance(result, int)
        self.recount()
        return result

    def recount(self) -> None:
        frames = [(int(v.info_frame), True) for v in self.domain.vcpus if v.info_frame is not None]
        tables = [domain.grants for domain in self.machine.hv.domains.values() if domain.has_grants]
        recount(self.mmu, [*frames, *grant_references(tables)])
        recount_grants(tables)

    def memory_op(self, op: int, record: Struct) -> int:
        return self.call(Hypercall.memory_op, int(op), self.record(record))

    def add(self, space: int, idx: int, gpfn: int) -> int:
        request = xen_add_to_physmap(domid=DOMID_SELF, space=int(space), idx=idx, gpfn=gpfn)
        return self.memory_op(7, request)

    def remove(self, gpfn: int) -> int:
        return self.memory_op(15, xen_remove_from_physmap(domid=DOMID_SELF, gpfn=gpfn))

    def numbers(self, values: list[int], at: int = ARGUMENTS + 0x800) -> int:
        return self.write(at, np.array(values, np.uint64).tobytes())

    def offer(self, ref: int, gfn: int, to: int, flags: int = 1) -> None:
        """Grant a page of its own by an entry of its table, which the guest would see in its memory."""
        entry = grant_entry_v1(flags=flags, domid=DomId(to), frame=gfn)
        self.machine.memory.write((self.domain.grants.frames[0] << 12) + 8 * ref, entry.pack())

    def effects(self) -> list[list[object]]:
        """What its process was told with the last answer."""
        return self.machine.processes.effects[self.vcpu]


@contextmanager
def hvm_house() -> Iterator[tuple[Caller, HvmCaller]]:
    """Dom0 and a translated domain."""
    with hypervisor_in_process() as machine:
        dom0 = Caller(machine, machine.build(privileged=True))
        yield dom0, HvmCaller(machine, machine.build_hvm())
