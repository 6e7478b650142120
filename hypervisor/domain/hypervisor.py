"""The hypervisor: its rooms wired together, and what crosses them. One instance per machine; it knows no sockets.

What must reach a process leaves through `Processes`, which the core implements and tests replace by a recorder.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from hypervisor.domain.domain import Domain, Life, Vcpu, Work
from hypervisor.domain.log import Log
from hypervisor.domain.run_control import RunControl, RunPort
from hypervisor.domain.runstate_area import runstate_info
from hypervisor.domain.saving import ContextSaving
from hypervisor.events.virq import GlobalVirqs
from hypervisor.machine.atomic import find_atomics
from hypervisor.machine.busiest import Busiest
from hypervisor.machine.clock import Clock, HostClock
from hypervisor.machine.counters import Counters
from hypervisor.machine.frame_types import FrameTypes
from hypervisor.machine.memory import MachineMemory
from hypervisor.machine.trace import Trace
from hypervisor.mm.domain_memory import DomainMemory
from hypervisor.mm.frame_table import FrameTable
from hypervisor.mm.mmu import Mmu
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.sched import SHUTDOWN_crash
from hypervisor.public.trace import XENOSCOPE_TRC_EVTCHN_RAISE
from hypervisor.public.types import DomId, Mfn, Port
from hypervisor.public.vcpu import vcpu_runstate_info
from hypervisor.public.xen import DOMID_FIRST_RESERVED, VIRQ_DOM_EXC
from hypervisor.sched.policies import DEFAULT_SCHEDULER, make_scheduler
from hypervisor.sched.scheduler import Scheduler
from hypervisor.sched.timers import Timers
from hypervisor.wire.messages import Effect, EffectRecord

HARDWARE_DOMID: Final = 0
"""Dom0, whose end is the machine's, as on Xen (common/domain.c, hwdom_shutdown)."""


class Processes(RunPort, Protocol):
    """What the hypervisor asks of whoever holds the processes' connections."""

    def fork(self, domain: Domain) -> None:
        """Begin to make the domain's process; it will ask to START. XenError when the machine's limits forbid it."""

    def share_memfd(self, domid: DomId, memfd: int) -> None:
        """Let the control domain's process have the memfd of a domain that is being made."""

    def kill(self, domain: Domain) -> None:
        """End the domain's process now; `Hypervisor.process_gone` follows, perhaps at once."""

    def end_machine(self) -> None:
        """Dom0 has shut down: everything ends."""

    def gone(self, domain: Domain) -> None:
        """The domain's last trace is gone: forget it."""


class Hypervisor:
    """`now()` is system time: ns since the machine started."""

    seed: int | None = None
    """What the domains' random choices follow from, on a machine that repeats itself."""
    run_hash: Callable[[], str] | None = None
    """What a machine that repeats itself has done so far, as one number (hypervisor/repeating)."""

    def __init__(
        self,
        memory: MachineMemory,
        processes: Processes,
        *,
        memory_frames: int,
        nr_cpus: int,
        scheduler: Scheduler | None = None,
        clock: Clock | None = None,
        frame_types: FrameTypes | None = None,
    ) -> None:
        """`frame_types`: the columns that processes read; None: nobody does. `clock`: None is the host's."""
        self.clock = clock or HostClock()
        self.memory = memory
        self.processes = processes
        self.memory_frames = memory_frames
        self.nr_cpus = nr_cpus
        self.counters = Counters()
        self.busiest = Busiest()
        self.trace = Trace(self.now)
        self.log = Log(self.counters)
        self.domains: dict[DomId, Domain] = {}
        self.memories: dict[DomId, DomainMemory] = {}
        self.frames = FrameTable(frame_types)
        self.mmu = self._memory_management()
        self.atomics = find_atomics()
        self.virqs = GlobalVirqs()
        self.timers = Timers()
        self.run = RunControl(
            nr_cpus,
            scheduler or make_scheduler(DEFAULT_SCHEDULER),
            processes,
            self.timers,
            self.now,
            self.counters,
            self.trace,
            resuming=self.write_runstate,
        )
        self.saving = ContextSaving(self.run, processes, self.now)
        self._extents: dict[DomId, list[EffectRecord]] = {}
        self.work: deque[Work] = deque()
        """What goes on between messages, a bounded step a turn."""
        self._next_domid = 1

    def _memory_management(self) -> Mmu:
        return Mmu(
            self.memory,
            self.frames,
            self.memories,
            quota_frames=self.memory_frames,
            flush=self._flush,
            on_extent=self._on_extent,
            trace=self.trace,
        )

    def now(self) -> int:
        """System time, ns."""
        return self.clock.now()

    @property
    def free_frames(self) -> int:
        """Frames of the machine's quota that no domain has."""
        return self.memory_frames - self.mmu.allocator.used_frames

    # --- domains ---------------------------------------------------------------------------------

    def domain(self, domid: DomId) -> Domain:
        """XenError(ESRCH) if there is no such domain."""
        domain = self.domains.get(domid)
        if domain is None:
            raise XenError(Errno.ESRCH, f"there is no domain {domid}")
        return domain

    def free_domid(self) -> DomId:
        """The next id that is not in use; an id is not reused while anything of its old domain is left (K4)."""
        for _ in range(DOMID_FIRST_RESERVED):
            domid = DomId(self._next_domid)
            self._next_domid = self._next_domid % (DOMID_FIRST_RESERVED - 1) + 1
            if domid not in self.domains:
                return domid
        raise XenError(Errno.ENOMEM, "no domain id is free")

    def _flush(self, d: DomainMemory) -> None:
        domain = self.domains.get(d.domid)
        for vcpu in domain.vcpus if domain else ():
            vcpu.effects.append([Effect.FLUSH_TLB])
            self.run.interrupt_guest(vcpu)

    def _on_extent(self, d: DomainMemory, mfn: Mfn, nr_frames: int, offset: int) -> None:
        """An extent appeared: its own process maps it, and the control domain's."""
        record: list[Any] = [Effect.MAP_EXTENT, d.domid, mfn, nr_frames, offset]
        self._extents.setdefault(d.domid, []).append(record)
        for domain in self.domains.values():
            if domain.mem is d or domain.privileged:
                domain.effects.append(list(record))

    def first_effects(self, domain: Domain) -> list[EffectRecord]:
        """What the process of a new domain maps before anything else: what its domain got while it was made."""
        return [list(record) for record in self._extents.get(domain.domid, ())]

    def forget_extents(self, domid: DomId) -> None:
        """A domain's memory is going: the control domain's process lets go of it."""
        records = self._extents.pop(domid, [])
        for domain in self.domains.values():
            if domain.privileged and domain.domid != domid:
                domain.effects.extend([Effect.UNMAP_EXTENT, mfn, nr] for _, _, mfn, nr, _ in records)
                domain.effects.append([Effect.CLOSE_MEMFD, domid])

    # --- running ---------------------------------------------------------------------------------

    def write_runstate(self, vcpu: Vcpu) -> None:
        """Bring the guest's registered runstate area up to date; an area that went away is left alone, as on Xen."""
        if not vcpu.runstate_area:
            return
        layout = vcpu.domain.shared_abi.layout(vcpu_runstate_info)
        try:
            raw = layout.pack(runstate_info(vcpu, self.now()))
            self.mmu.guest.copy_to_guest(vcpu.mem, vcpu.runstate_area, raw)
        except XenError:
            self.counters.add("runstate area not writable", vcpu.domain.domid)

    def raise_port(self, domain: Domain, port: Port, vcpu_id: int) -> None:
        """Deliver an event (E6): the bit in the mailbox, then the wake-up or the interruption."""
        vcpu = domain.vcpus[vcpu_id if vcpu_id < len(domain.vcpus) else 0]
        if self.trace.sink is not None:
            self.trace.record(XENOSCOPE_TRC_EVTCHN_RAISE, domain.domid, port, vcpu_id)
        domain.mailbox.raise_port(port, vcpu.vcpu_id)
        self.run.vcpu_kick(vcpu)

    # --- ends ------------------------------------------------------------------------------------

    def shutdown(self, domain: Domain, code: int) -> None:
        """SCHEDOP_shutdown: the domain stops for good; the control domain is told."""
        if domain.is_shut_down:
            return
        domain.is_shut_down = True
        if domain.shutdown_code is None:
            domain.shutdown_code = code
        if domain.domid == HARDWARE_DOMID:
            self.processes.end_machine()
        self.run.domain_sleep(domain)
        self.virqs.send(VIRQ_DOM_EXC)

    def bug(self, domain: Domain | None, what: str) -> None:
        """An exception is being handled that no rule foresees (H3): log it, count it, and stop the domain it belongs to."""
        self.log.line(f"hypervisor bug in {what}\n{traceback.format_exc()}")
        self.counters.add("hypervisor bugs")
        if domain is not None:
            self.crash(domain, f"hypervisor bug in {what}")

    def crash(self, domain: Domain, reason: str) -> None:
        """The guest broke the contract: its domain is stopped as crashed, everybody else goes on."""
        self.log.line(f"d{domain.domid} crashed: {reason}")
        self.counters.add("domain crashes")
        if domain.life is Life.ALIVE:
            self.shutdown(domain, int(SHUTDOWN_crash))
