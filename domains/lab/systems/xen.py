"""The kernel ported to Xen: a 32-bit paravirtual guest in ring 1, on the engine and the core of every Xenoscope machine.

Core and guest are in one process here, so that a run is the same each time and each entry into the hypervisor is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

import numpy as np

from domains.cpu.x86.pv.engine import X86Cpu
from domains.cpu.x86.pv.kinds import PV32
from domains.cpu.x86.registers import U64
from domains.lab.image import BASE, Image, LabError, kernel_image
from domains.lab.in_process import XenInProcess
from domains.lab.systems.system import GUEST_PAGES, Crashed, Ended, loadable
from domains.lab.systems.unported import attach
from domains.lab.systems.walks import guest_entries
from domains.lab.trace import Entry, Observer
from hypervisor.builder.pv_contents import StartOfDay, contents, vcpu_context
from hypervisor.builder.pv_image import PvImage, Segment
from hypervisor.builder.pv_layout import Plan, plan
from hypervisor.domain.compat import switch_compat
from hypervisor.domain.context import install_context
from hypervisor.domain.domain import Domain, Life
from hypervisor.domain.lifecycle import create_domain
from hypervisor.domain.requests import ProcessRequests
from hypervisor.machine.paging import PAE
from hypervisor.mm.budget import Budget
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, MAddr, Mfn, VAddr
from hypervisor.wire.messages import Effect, EffectRecord, Request

WHOLE: Final = 1 << 30
"""A budget that nothing here uses up."""
EXTENTS: Final = (int(Effect.MAP_EXTENT), int(Effect.UNMAP_EXTENT), int(Effect.CLOSE_MEMFD))
"""What a process of its own would have to do to see memory; this one sees all."""
Answer = tuple[int, list[EffectRecord]]


class InProcessGate:
    """domains.cpu.gate's Gate, without a socket: requests go to the core at once."""

    def __init__(self, xen: XenInProcess, domain: Domain) -> None:
        self._xen, self._domain = xen, domain
        self._requests = ProcessRequests(xen.hv)
        self.domid = domain.domid
        self.memory, self.mailbox = xen.memory, domain.mailbox

    def hypercall(self, vcpu: int, nr: int, *args: int) -> Answer:
        """Result and effects; the vCPU may have slept meanwhile. Ended: its domain has shut down."""
        one = self._domain.vcpus[vcpu]
        answer = self._xen.hypercall(one, nr, *(arg & U64 for arg in args))
        if self._domain.life is not Life.ALIVE or self._domain.is_shut_down:
            raise Ended
        if answer is None:
            answer = self._xen.sleep(one)
        if answer is None:
            raise Crashed("the kernel waits for what never comes")
        return _without_extents(answer)

    def _request(self, vcpu: int, nr: Request, *args: int) -> Answer:
        one = self._domain.vcpus[vcpu]
        a, b, c, d, e = (*args, *(0,) * (5 - len(args)))
        self._xen.processes.answers.pop(one, None)
        self._requests.perform(one, one.run.seq + 1, nr, (a, b, c, d, e))
        return _without_extents(self._xen.processes.answers.pop(one))

    def start(self, vcpu: int) -> list[EffectRecord]:
        """The first registers."""
        return self._request(vcpu, Request.START)[1]

    def stopped(self, _vcpu: int) -> list[EffectRecord]:
        """Nobody stops it."""
        return []

    def pte_write(self, vcpu: int, va: int, size: int, value: int, old: int | None) -> Answer:
        """A store to a page table that the core is to perform."""
        return self._request(vcpu, Request.PTE_WRITE, va, size, value, int(old is not None), old or 0)

    def new_baseptr(self, vcpu: int, mfn: int) -> Answer:
        """CR3 was written."""
        return self._request(vcpu, Request.NEW_BASEPTR, mfn)

    def map_ldt_page(self, vcpu: int, offset: int) -> Answer:
        """A page of the LDT is wanted."""
        return self._request(vcpu, Request.LDT_PAGE, offset)

    def raised(self, vcpu: int = 0) -> list[int]:
        """Event channels that were raised since the last call."""
        return self.mailbox.take_raised(vcpu)

    def crash(self, _vcpu: int, reason: str) -> NoReturn:
        """The guest broke the contract."""
        raise Crashed(reason)


def _without_extents(answer: Answer) -> Answer:
    result, effects = answer
    return result, [effect for effect in effects if effect[0] not in EXTENTS]


class Xen:
    """A `System`."""

    name = "xen"
    monitor = "Xen"

    def __init__(self) -> None:
        self.image: Image = kernel_image("xen")
        self.xen = XenInProcess()
        self.domain = create_domain(self.xen.hv, self.xen.hv.free_domid(), max_pages=GUEST_PAGES)
        switch_compat(self.xen.hv, self.domain)
        self.gate = InProcessGate(self.xen, self.domain)
        self.cpu = X86Cpu(self.gate, PV32)  # type: ignore[arg-type]
        self.v = self.cpu.vcpu
        self.p2m: np.ndarray

    def observe(self, observer: Observer) -> None:
        """See System."""
        self.v.exits = attach(observer, self.cpu.library, self.v.cpu, self.image)
        observer.cr3 = lambda: self.v.mode.cr3()

    def read(self, address: int, size: int) -> bytes:
        """See System."""
        mfn = int(self.p2m[address >> PAGE_SHIFT])
        return self.xen.memory.read(mfn << PAGE_SHIFT | address % PAGE_SIZE, size)

    def tables(self, va: int) -> list[Entry]:
        """See System. They are the guest's own, and the CPU's: they hold the machine's addresses."""
        return guest_entries(self.v.paging, va, PAE, "guest")

    def run(self, programs: Sequence[str]) -> int:
        """See System."""
        self._build(loadable(self.image, programs))
        self.cpu.boot(self.gate.start(0))
        try:
            while True:
                self.cpu.run_slice()
        except Ended:
            self.v.cpu.running = False
        return self._result()

    def _result(self) -> int:
        result = int.from_bytes(self.read(self.image.at("kernel_result"), 4), "little")
        if result >> 20 == 0xBAD:
            raise Crashed(f"the kernel ended with {result:#x}")
        return result

    def _build(self, data: bytes) -> None:
        """The domain's memory at its first instruction, as Dom0's toolstack makes it."""
        hv = self.xen.hv
        kernel = Segment(VAddr(BASE), data, -(-len(data) // PAGE_SIZE) * PAGE_SIZE)
        image = PvImage([kernel], VAddr(0), VAddr(self.image.entry), address_size=32)
        layout = plan(image, GUEST_PAGES)
        self._check(layout)
        pages = [hv.mmu.allocator.alloc_page(self.domain.mem) for _ in range(GUEST_PAGES)]
        self.p2m = np.array(pages, dtype=np.uint64)
        for pfn, mfn in enumerate(pages):
            hv.mmu.m2p.set(Mfn(mfn), pfn)
        day = StartOfDay(shared_info=MAddr(self.domain.shared_info << PAGE_SHIFT))
        for content in contents(layout, self.p2m, day):
            for number, page in enumerate(content.data.reshape(-1, PAGE_SIZE)):
                self.xen.memory.write(pages[content.pfn + number] << PAGE_SHIFT, page.tobytes())
        install_context(hv, self.domain.vcpus[0], vcpu_context(layout, self.p2m), Budget(WHOLE))
        hv.run.domain_unpause(self.domain)
        self.domain.tool_pauses = 0

    def _check(self, layout: Plan) -> None:
        """The kernel hands out the upper half of its memory: nothing of the start of day may lie there."""
        if layout.boot_stack >= GUEST_PAGES // 2:
            raise LabError("the kernel under test has grown into the memory that it hands out")
