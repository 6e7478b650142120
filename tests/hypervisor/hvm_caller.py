"""An HVM guest that makes hypercalls through the real dispatcher; its vCPU runs unpaged unless a test gives it page tables."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from hypervisor.domain.domain import Domain
from hypervisor.public.layout import Struct
from hypervisor.public.memory import xen_add_to_physmap, xen_remove_from_physmap
from hypervisor.public.xen import DOMID_SELF, Hypercall
from tests.hypervisor.mm.caller import Caller
from tests.inprocess import InProcess, hypervisor_in_process
from tests.recount import recount

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
        frames = [v.info_frame for v in self.domain.vcpus if v.info_frame is not None]
        recount(self.mmu, [(int(mfn), True) for mfn in frames])

    def memory_op(self, op: int, record: Struct) -> int:
        return self.call(Hypercall.memory_op, int(op), self.record(record))

    def add(self, space: int, idx: int, gpfn: int) -> int:
        request = xen_add_to_physmap(domid=DOMID_SELF, space=int(space), idx=idx, gpfn=gpfn)
        return self.memory_op(7, request)

    def remove(self, gpfn: int) -> int:
        return self.memory_op(15, xen_remove_from_physmap(domid=DOMID_SELF, gpfn=gpfn))

    def numbers(self, values: list[int], at: int = ARGUMENTS + 0x800) -> int:
        return self.write(at, np.array(values, np.uint64).tobytes())

    def effects(self) -> list[list[object]]:
        """What its process was told with the last answer."""
        return self.machine.processes.effects[self.vcpu]


@contextmanager
def hvm_house() -> Iterator[tuple[Caller, HvmCaller]]:
    """Dom0 and a translated domain."""
    with hypervisor_in_process() as machine:
        dom0 = Caller(machine, machine.build(privileged=True))
        yield dom0, HvmCaller(machine, machine.build_hvm())
