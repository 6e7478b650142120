"""The kernel ported to Xen: a 32-bit paravirtual guest in ring 1, on the engine and the core of every Xenoscope machine.

Core and guest are in one process here, so that a run is the same each time and each entry into the hypervisor is seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from domains.cpu.x86.pv.engine import X86Cpu
from domains.cpu.x86.pv.kinds import PV32, PV64
from domains.lab.image import BASE, Image, LabError, kernel_image
from domains.lab.in_process import XenInProcess, build_pv
from domains.lab.systems.dom0 import FRONT_ENDS, Connect, Dom0
from domains.lab.systems.gate import InProcessGate, call_name
from domains.lab.systems.scatter import GUEST_PAGES
from domains.lab.systems.system import Ended, checked, loadable
from domains.lab.systems.unported import attach
from domains.lab.systems.walks import guest_entries
from domains.lab.trace import Entry, Observer
from hypervisor.builder.pv_image import PvImage, Segment
from hypervisor.builder.pv_layout import Plan
from hypervisor.domain.compat import switch_compat
from hypervisor.domain.lifecycle import create_domain
from hypervisor.machine.paging import PAE
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, VAddr


class Xen:
    """A `System`."""

    name = "xen"
    monitor = "Xen"

    def __init__(self, image: Image | None = None, *, broken: int = -1) -> None:
        self.image = image or kernel_image("xen")
        self.xen = XenInProcess()
        self.devices = Dom0(self.xen, broken=broken)
        self.connect: Connect | None = None
        """Who connects the guest's devices, if it is not Dom0."""
        self.domain = create_domain(self.xen.hv, self.xen.hv.free_domid(), max_pages=GUEST_PAGES)
        if self.image.bits == 32:
            switch_compat(self.xen.hv, self.domain)
        self.gate = InProcessGate(self.xen, self.domain)
        self.cpu = X86Cpu(self.gate, PV32 if self.image.bits == 32 else PV64)  # type: ignore[arg-type]
        self.v = self.cpu.vcpu
        self.p2m: np.ndarray

    def observe(self, observer: Observer) -> None:
        """See System."""
        self.v.exits = attach(observer, self.cpu.library, self.v.cpu, self.image, self.cpu.emulation)
        observer.cr3 = self._cr3
        observer.named = self._named
        dom0 = self.devices
        dom0.woken = lambda: observer.beside("Dom0", "is woken")
        dom0.gate.told = lambda call: observer.beside("Dom0", call)
        dom0.moved = lambda what, size: observer.beside("Dom0", what, size)

    def read(self, address: int, size: int) -> bytes:
        """See System."""
        mfn = int(self.p2m[address >> PAGE_SHIFT])
        return self.xen.memory.read(mfn << PAGE_SHIFT | address % PAGE_SIZE, size)

    def tables(self, va: int) -> list[Entry]:
        """See System. They are the guest's own, and the CPU's: they hold the machine's addresses."""
        return guest_entries(self.v.paging, va, PAE, "guest")

    def run(self, programs: Sequence[str]) -> int:
        """See System."""
        self.begin(programs)
        try:
            while True:
                self.cpu.run_slice()
        except Ended:
            self.v.cpu.running = False
        return self._result()

    def close(self) -> None:
        """See System."""
        self.devices.close()
        self.xen.close()

    def _cr3(self) -> int:
        """The guest's table in force. A 64-bit guest has one for each half, the CPU's own; a 32-bit one's is below Xen's L4."""
        return self.v.mode.cr3() if self.image.bits == 32 else self.v.paging.root << PAGE_SHIFT

    def _named(self, cause: str) -> str:
        if cause != "hypercall":
            return cause
        return f"hypercall {call_name(*self.v.mode.hypercall())}"

    def _front_ends(self) -> bytes:
        return self.read(self.image.at("front_ends"), FRONT_ENDS.size)

    def begin(self, programs: Sequence[str]) -> None:
        """Load the kernel; its vCPU is at its first instruction."""
        self._build(loadable(self.image, programs))
        self.cpu.boot(self.gate.start(0))
        self.xen.let_others_run()  # Dom0 waits from now on

    def top_table(self) -> int:
        """The frame of the L3 table that the vCPU starts on."""
        return self.v.mode.cr3() >> PAGE_SHIFT

    def _result(self) -> int:
        return checked(int.from_bytes(self.read(self.image.at("kernel_result"), 4), "little"))

    def _build(self, data: bytes) -> None:
        """The domain's memory at its first instruction, as Dom0's toolstack makes it."""
        kernel = Segment(VAddr(BASE), data, -(-len(data) // PAGE_SIZE) * PAGE_SIZE)
        image = PvImage([kernel], VAddr(0), VAddr(self.image.entry), address_size=self.image.bits)
        store = self.devices.open_store(self.domain.domid, self._front_ends, self.connect)
        layout, self.p2m = build_pv(self.xen, self.domain, image, GUEST_PAGES, store)
        self._check(layout)

    def _check(self, layout: Plan) -> None:
        """The kernel hands out the upper half of its memory: nothing of the start of day may lie there."""
        if layout.boot_stack >= GUEST_PAGES // 2:
            raise LabError("the kernel under test has grown into the memory that it hands out")
