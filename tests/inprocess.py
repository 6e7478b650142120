"""A hypervisor in this process, without sockets: domains are real, their processes are played by the test.

`InProcess.hypercall` performs a hypercall through the real dispatcher, continuations included, and applies nothing: the
effects are there to be looked at. `Builder` gives a domain page tables as a toolstack does, through the hypervisor's own parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from domains.lab.in_process import PlayedProcesses, XenInProcess, build_pv
from hypervisor.builder.pv_image import PvImage, Segment
from hypervisor.builder.pv_layout import Plan
from hypervisor.domain.domain import Domain, Vcpu
from hypervisor.domain.lifecycle import Limits, create_domain
from hypervisor.machine.clock import Clock, HostClock
from hypervisor.public.types import DomId, VAddr
from hypervisor.wire.mailbox import Engine

VIRT_BASE = VAddr(0xFFFF_FFFF_8000_0000)
BLOCKED = object()
"""What `hypercall` returns when the vCPU went to sleep or its domain ended."""


class NoProcesses(PlayedProcesses):
    """Nothing runs; interruptions and replies are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.interrupted: list[Vcpu] = []
        self.results: dict[Vcpu, int] = {}
        self.effects: dict[Vcpu, list[list[object]]] = {}

    def interrupt(self, vcpu: Vcpu) -> None:
        self.interrupted.append(vcpu)

    def reply(self, vcpu: Vcpu) -> None:
        super().reply(vcpu)
        self.results[vcpu], effects = self.answers[vcpu]
        self.effects[vcpu] = list(effects)


@dataclass
class Built:
    """A domain with memory: `p2m` uint64[pages], `layout` says where things lie."""

    domain: Domain
    layout: Plan
    p2m: np.ndarray
    scratch: VAddr
    """A mapped, writable page for hypercall arguments; the pages behind it up to the initial mapping's end are free."""

    @property
    def vcpu(self) -> Vcpu:
        return self.domain.vcpus[0]


class InProcess(XenInProcess):
    """There are CPUs for all, unless told otherwise, so that no hypercall waits for a slice."""

    processes: NoProcesses

    def __init__(self, *, nr_cpus: int = 16, clock: Clock | None = None) -> None:
        super().__init__(NoProcesses(), memory_frames=1 << 16, nr_cpus=nr_cpus, clock=clock or HostClock())

    def build(
        self, *, pages: int = 1024, privileged: bool = False, max_pages: int = 4096, nr_vcpus: int = 1
    ) -> Built:
        """A running domain of `pages` pages with the usual start-of-day memory; vCPU 0 is up."""
        hv = self.hv
        domid = DomId(0) if privileged else hv.free_domid()
        limits = Limits(nr_vcpus=nr_vcpus)
        domain = create_domain(hv, domid, privileged=privileged, max_pages=max_pages, limits=limits)
        if privileged:
            hv.virqs.default = domain.events
        image = PvImage(segments=[Segment(VIRT_BASE, b"test", 4)], virt_base=VIRT_BASE, entry=VIRT_BASE)
        layout, p2m = build_pv(self, domain, image, pages)
        return Built(domain, layout, p2m, VAddr(layout.vaddr(layout.boot_stack) + 4096))

    def build_hvm(self, *, pages: int = 64, max_pages: int = 256) -> Domain:
        """A running translated domain with memory from guest frame 0 on; its vCPU runs unpaged, so addresses are physical."""
        hv = self.hv
        domain = create_domain(hv, hv.free_domid(), max_pages=max_pages, engine=Engine.X86_64_NESTED)
        hv.mmu.reservation.populate_many(domain.mem, np.arange(pages, dtype=np.uint64))
        domain.vcpus[0].initialised = domain.vcpus[0].up = True
        hv.run.domain_unpause(domain)
        domain.tool_pauses = 0
        return domain

    def hypercall(self, vcpu: Vcpu, nr: int, *args: int) -> int | object:
        """Perform it to its end. Returns the result, or BLOCKED."""
        self.processes.results.pop(vcpu, None)
        self.perform(vcpu, nr, *(arg & (1 << 64) - 1 for arg in args))
        return self.processes.results.pop(vcpu, BLOCKED)

    def close(self) -> None:
        """Take all domains apart. The machine's memory stays: a test may still hold a view of it."""
        self.end_domains()


@contextmanager
def hypervisor_in_process(*, nr_cpus: int = 16) -> Iterator[InProcess]:
    machine = InProcess(nr_cpus=nr_cpus)
    try:
        yield machine
    finally:
        machine.close()
