"""A hypervisor in this process, without sockets: domains are real, their processes are played by the test.

`InProcess.hypercall` performs a hypercall through the real dispatcher, continuations included, and applies nothing: the
effects are there to be looked at. `Builder` gives a domain page tables as a toolstack does, through the hypervisor's own parts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from hypervisor.builder.pv_contents import StartOfDay, contents, vcpu_context
from hypervisor.builder.pv_image import PvImage, Segment
from hypervisor.builder.pv_layout import Plan, plan
from hypervisor.domain.context import install_context
from hypervisor.domain.domain import Domain, Life, Vcpu
from hypervisor.domain.hypervisor import Hypervisor
from hypervisor.domain.lifecycle import begin_destroy, create_domain, process_gone
from hypervisor.domain.timer_actions import fire
from hypervisor.hypercalls.dispatch import Dispatcher
from hypervisor.machine.clock import Clock, HostClock
from hypervisor.machine.memory import MachineMemory, create_memfd
from hypervisor.mm.budget import Budget
from hypervisor.mm.layout import XEN_FRAMES
from hypervisor.public.types import PAGE_SHIFT, DomId, MAddr, Mfn, VAddr
from hypervisor.wire.mailbox import Engine

VIRT_BASE = VAddr(0xFFFF_FFFF_8000_0000)
BLOCKED = object()
"""What `hypercall` returns when the vCPU went to sleep or its domain ended."""


class NoProcesses:
    """hypervisor.domain's Processes: nothing runs; interruptions and replies are counted."""

    def __init__(self) -> None:
        self.hv: Hypervisor | None = None
        self.interrupted: list[Vcpu] = []
        self.results: dict[Vcpu, int] = {}
        self.effects: dict[Vcpu, list[list[object]]] = {}

    def fork(self, domain: Domain) -> None:
        domain.pid = -1

    def share_memfd(self, domid: DomId, memfd: int) -> None: ...

    def kill(self, domain: Domain) -> None:
        assert self.hv is not None
        domain.pid = 0

    def interrupt(self, vcpu: Vcpu) -> None:
        self.interrupted.append(vcpu)

    def freeze(self, domain: Domain, *, frozen: bool) -> None: ...

    def reply(self, vcpu: Vcpu) -> None:
        self.results[vcpu] = vcpu.run.result
        self.effects[vcpu] = list(vcpu.effects)
        vcpu.effects.clear()

    def ask_to_save(self, vcpu: Vcpu) -> None: ...

    def end_machine(self) -> None: ...

    def gone(self, domain: Domain) -> None: ...


class StoppedClock:
    """A machine's clock that shows what the test says: `time` in ns of system time."""

    boot_ns = 0

    def __init__(self, time: int) -> None:
        self.time = time

    def now(self) -> int:
        return self.time

    def wall(self) -> int:
        return self.time


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


@dataclass
class InProcess:
    """`memory_frames`: quota of the machine. There are CPUs for all, so that no hypercall waits for a slice."""

    memory_frames: int = 1 << 16
    nr_cpus: int = 16
    processes: NoProcesses = field(default_factory=NoProcesses)
    clock: Clock = field(default_factory=HostClock)

    def __post_init__(self) -> None:
        self.xen_fd = create_memfd("xen", XEN_FRAMES)
        self.memory = MachineMemory()
        self.memory.map(self.xen_fd, 0, XEN_FRAMES, 0)
        self.hv = Hypervisor(
            self.memory,
            self.processes,
            memory_frames=self.memory_frames,
            nr_cpus=self.nr_cpus,
            clock=self.clock,
        )
        self.processes.hv = self.hv
        self.dispatcher = Dispatcher(self.hv)

    def build(self, *, pages: int = 1024, privileged: bool = False, max_pages: int = 4096) -> Built:
        """A running domain of `pages` pages with the usual start-of-day memory."""
        hv = self.hv
        domid = DomId(0) if privileged else hv.free_domid()
        domain = create_domain(hv, domid, privileged=privileged, max_pages=max_pages)
        if privileged:
            hv.virqs.default = domain.events
        image = PvImage(segments=[Segment(VIRT_BASE, b"test", 4)], virt_base=VIRT_BASE, entry=VIRT_BASE)
        layout = plan(image, pages)
        p2m = np.array([hv.mmu.allocator.alloc_page(domain.mem) for _ in range(pages)], dtype=np.uint64)
        for pfn, mfn in enumerate(p2m.tolist()):
            hv.mmu.m2p.set(Mfn(mfn), pfn)
        day = StartOfDay(shared_info=MAddr(domain.shared_info << PAGE_SHIFT))
        for content in contents(layout, p2m, day):
            for i, page in enumerate(content.data.reshape(-1, 4096)):
                self.memory.write(int(p2m[content.pfn + i]) << PAGE_SHIFT, page.tobytes())
        install_context(hv, domain.vcpus[0], vcpu_context(layout, p2m), Budget(1 << 30))
        hv.run.domain_unpause(domain)
        domain.tool_pauses = 0
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
        self.hv.run.request(vcpu, vcpu.run.seq + 1, nr)
        self.processes.results.pop(vcpu, None)
        a, b, c, d, e = (*(arg & (1 << 64) - 1 for arg in args), *(0,) * (5 - len(args)))
        self.dispatcher.hypercall(vcpu, nr, (a, b, c, d, e), vcpu.domain.mailbox.counter(vcpu.vcpu_id))
        while self.hv.run.continuations:
            self.dispatcher.go_on()
            self.step()
        return self.processes.results.pop(vcpu, BLOCKED)

    def step(self) -> None:
        """One turn of the background: the deaths in progress."""
        for _ in range(len(self.hv.work)):
            work = self.hv.work.popleft()
            if not work.step():
                self.hv.work.append(work)
        for timer in self.hv.timers.due(self.hv.now()):
            fire(self.hv, timer)

    def destroy(self, domain: Domain) -> None:
        """Take a domain apart completely, whatever it takes."""
        begin_destroy(self.hv, domain)
        while self.hv.work:
            self.step()
        process_gone(self.hv, domain)

    def close(self) -> None:
        """Take all domains apart, and close Xen's memfd: of some thousand left open, select(2) in another test knew no way."""
        for domain in list(self.hv.domains.values()):
            if domain.life is Life.ALIVE:
                self.destroy(domain)
        os.close(self.xen_fd)


@contextmanager
def hypervisor_in_process(*, nr_cpus: int = 16) -> Iterator[InProcess]:
    machine = InProcess(nr_cpus=nr_cpus)
    try:
        yield machine
    finally:
        machine.close()
