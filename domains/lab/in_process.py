"""Xen's core in this process: its state and its hypercalls are the real ones, its processes are played by whoever uses it.

A hypercall goes through the real dispatcher, continuations included. What the caller's CPU has to do afterwards, its *effects*,
is handed back with the result. Time stands still unless it is told to go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import numpy as np

from hypervisor.builder.pv_contents import StartOfDay, contents, vcpu_context
from hypervisor.builder.pv_image import PvImage
from hypervisor.builder.pv_layout import Plan, plan
from hypervisor.domain.context import install_context
from hypervisor.domain.domain import Domain, Life, Vcpu
from hypervisor.domain.hypervisor import Hypervisor
from hypervisor.domain.lifecycle import begin_destroy, process_gone
from hypervisor.domain.timer_actions import fire
from hypervisor.hypercalls.dispatch import Dispatcher
from hypervisor.machine.clock import Clock
from hypervisor.machine.memory import MachineMemory, create_memfd
from hypervisor.mm.budget import Budget
from hypervisor.mm.layout import XEN_FRAMES
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, DomId, MAddr, Mfn, Port
from hypervisor.wire.messages import EffectRecord

WHOLE: Final = 1 << 30
"""A budget that nothing here uses up."""
MEMORY_FRAMES: Final = 1 << 14
NR_CPUS: Final = 16
"""CPUs for all, so that no hypercall waits for a slice."""


class StandingClock:
    """A machine's clock that shows what it is told: `time` in ns of system time."""

    boot_ns = 0

    def __init__(self, time: int = 0) -> None:
        self.time = time

    def now(self) -> int:
        """System time, ns."""
        return self.time

    def wall(self) -> int:
        """Wall-clock time, ns: the same."""
        return self.time


class PlayedProcesses:
    """hypervisor.domain's Processes. Answers are kept until they are taken."""

    def __init__(self) -> None:
        self.answers: dict[Vcpu, tuple[int, list[EffectRecord]]] = {}
        self.ended: list[Domain] = []
        self.machine_ended = False

    def fork(self, domain: Domain) -> None:
        """The domain's process is there at once."""
        domain.pid = -1

    def share_memfd(self, domid: DomId, memfd: int) -> None:
        """Everybody sees the machine's whole memory."""

    def kill(self, domain: Domain) -> None:
        """It is gone at once."""
        domain.pid = 0

    def interrupt(self, vcpu: Vcpu) -> None:
        """It looks for events after each hypercall."""

    def freeze(self, domain: Domain, *, frozen: bool) -> None:
        """It runs only while it is asked to."""

    def reply(self, vcpu: Vcpu) -> None:
        """The answer to the vCPU's request, and its effects."""
        self.answers[vcpu] = vcpu.run.result, vcpu.take_effects()

    def ask_to_save(self, vcpu: Vcpu) -> None:
        """Nobody saves a domain here."""

    def end_machine(self) -> None:
        """Dom0 has ended: nobody runs any more."""
        self.machine_ended = True

    def gone(self, domain: Domain) -> None:
        """Nothing of it is left."""
        self.ended.append(domain)


class XenInProcess:
    """One machine's hypervisor."""

    def __init__(
        self,
        processes: PlayedProcesses | None = None,
        *,
        memory_frames: int = MEMORY_FRAMES,
        nr_cpus: int = NR_CPUS,
        clock: Clock | None = None,
    ) -> None:
        """`memory_frames`: the machine's quota. `clock`: one that stands still, unless another is given."""
        self.memory = MachineMemory()
        fd = create_memfd("xen", XEN_FRAMES)
        self.memory.map(fd, 0, XEN_FRAMES, 0)
        os.close(fd)
        self.processes = processes or PlayedProcesses()
        self.clock = clock or StandingClock()
        self.hv = Hypervisor(
            self.memory, self.processes, memory_frames=memory_frames, nr_cpus=nr_cpus, clock=self.clock
        )
        self.dispatcher = Dispatcher(self.hv)
        self.others: list[Callable[[], bool]] = []
        """Domains beside the one that runs: each does what it has to do, and says whether there was anything."""
        self.one_cpu = False
        """Whether the others run only while the one that runs sleeps."""

    def let_others_run(self) -> None:
        """As if they had a CPU of their own, which is faster: until none of them has anything to do."""
        while any(other() for other in self.others):
            pass

    def perform(self, vcpu: Vcpu, nr: int, *args: int) -> tuple[int, list[EffectRecord]] | None:
        """Perform a hypercall to its end: result and effects. None: the vCPU sleeps, or its domain has ended."""
        self.hv.run.request(vcpu, vcpu.run.seq + 1, nr)
        self.processes.answers.pop(vcpu, None)
        a, b, c, d, e = (*args, *(0,) * (5 - len(args)))
        seen = vcpu.domain.mailbox.counter(vcpu.vcpu_id)
        self.dispatcher.hypercall(vcpu, nr, (a, b, c, d, e), seen)
        while self.hv.run.continuations:
            self.dispatcher.go_on()
            self.background()
        return self.processes.answers.pop(vcpu, None)

    def background(self) -> None:
        """One turn of what goes on beside requests: deaths, and timers that are due."""
        for _ in range(len(self.hv.work)):
            work = self.hv.work.popleft()
            if not work.step():
                self.hv.work.append(work)
        for timer in self.hv.timers.due(self.hv.now()):
            fire(self.hv, timer)

    def sleep(self, vcpu: Vcpu) -> tuple[int, list[EffectRecord]] | None:
        """The vCPU has blocked: time goes on from timer to timer until it is woken. None: nothing will wake it."""
        assert isinstance(self.clock, StandingClock)
        self.let_others_run()
        while vcpu not in self.processes.answers:
            deadline = self.hv.timers.next_deadline()
            if deadline is None or vcpu.domain.life is not Life.ALIVE:
                return None
            self.clock.time = max(self.clock.time, deadline)
            self.background()
            self.let_others_run()
        return self.processes.answers.pop(vcpu)

    def destroy(self, domain: Domain) -> None:
        """Take a domain apart completely."""
        begin_destroy(self.hv, domain)
        while self.hv.work:
            self.background()
        process_gone(self.hv, domain)

    def end_domains(self) -> None:
        """Take all domains apart: nothing may be left of them."""
        for domain in list(self.hv.domains.values()):
            if domain.life is Life.ALIVE:
                self.destroy(domain)

    def close(self) -> None:
        """End all domains, and the machine; nobody may hold a view of its memory."""
        self.end_domains()
        self.memory.close()


def build_pv(
    xen: XenInProcess, domain: Domain, image: PvImage, nr_pages: int, store: Port | None = None
) -> tuple[Plan, np.ndarray]:
    """Give a new paravirtual domain its memory, as Dom0's toolstack does, and let it run: where things lie, and frame by page."""
    hv = xen.hv
    layout = plan(image, nr_pages)
    pages = [hv.mmu.allocator.alloc_page(domain.mem) for _ in range(nr_pages)]
    p2m = np.array(pages, dtype=np.uint64)
    for pfn, mfn in enumerate(pages):
        hv.mmu.m2p.set(Mfn(mfn), pfn)
    day = StartOfDay(shared_info=MAddr(domain.shared_info << PAGE_SHIFT), store=store)
    for content in contents(layout, p2m, day):
        for number, page in enumerate(content.data.reshape(-1, PAGE_SIZE)):
            xen.memory.write(pages[content.pfn + number] << PAGE_SHIFT, page.tobytes())
    install_context(hv, domain.vcpus[0], vcpu_context(layout, p2m), Budget(WHOLE))
    hv.run.domain_unpause(domain)
    domain.tool_pauses = 0
    return layout, p2m
