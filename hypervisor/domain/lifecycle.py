"""Making a domain, and taking one apart in restartable steps (K1–K6)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Final

from hypervisor.domain.domain import DEATH_STEPS, NO_FRAME, Domain, Kind, Life, Vcpu, Work
from hypervisor.domain.effects import EffectPort
from hypervisor.domain.hypervisor import Hypervisor
from hypervisor.domain.shadow import FIRST_SHADOW_FRAMES, set_shadow_frames
from hypervisor.events.event_channels import EventChannels
from hypervisor.grants.grant_table import (
    INITIAL_NR_GRANT_FRAMES,
    GrantLimits,
    GrantTable,
)
from hypervisor.grants.mapping import release_maps
from hypervisor.machine.memory import create_growing_memfd, create_memfd
from hypervisor.mm.budget import Budget, Restart
from hypervisor.mm.domain_memory import DomainMemory
from hypervisor.mm.layout import XEN_FRAMES
from hypervisor.public.abi import NATIVE
from hypervisor.public.arch_x86.xen import XEN_LEGACY_MAX_VCPUS
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import DomId, Port
from hypervisor.public.xen import VIRQ_DOM_EXC, shared_info
from hypervisor.sched.scheduler import SchedUnit
from hypervisor.sched.timers import TimerKind
from hypervisor.wire.mailbox import MAILBOX_FRAMES, Engine, Mailbox
from hypervisor.wire.messages import M2P_MEMFD, Effect

MAX_VCPUS: Final = XEN_LEGACY_MAX_VCPUS
"""vCPUs of a domain; all but the first can be initialised but not brought up (SMP guests are not implemented)."""
RETRY_NS: Final = 1_000_000
MAX_RETRY_NS: Final = 100_000_000
"""How often it is looked whether others have let go of a dead domain's frames: ever more rarely."""
GRANT_OVERHEAD_FRAMES: Final = 2048


@dataclass(frozen=True)
class Limits:
    """What a domain may have at most of each kind (XEN_DOMCTL_createdomain)."""

    nr_vcpus: int = 1
    max_evtchn_port: int = 4095
    grants: GrantLimits = field(default_factory=GrantLimits)


DEFAULT_LIMITS: Final = Limits()


def create_domain(
    hv: Hypervisor,
    domid: DomId,
    *,
    handle: bytes = bytes(16),
    limits: Limits = DEFAULT_LIMITS,
    privileged: bool = False,
    max_pages: int = 0,
    engine: Engine = Engine.X86_64,
) -> Domain:
    """A paused domain without memory of its own, but with its shared_info; its process is on its way.

    XenError(ENOMEM, EINVAL); then nothing is left behind.
    """
    if not 0 < limits.nr_vcpus <= MAX_VCPUS:
        raise XenError(Errno.EINVAL, f"a domain has 1 to {MAX_VCPUS} vCPUs, not {limits.nr_vcpus}")
    memfd = create_growing_memfd(f"d{domid}")
    mailbox_fd = create_memfd(f"d{domid} mailbox", MAILBOX_FRAMES)
    hv.processes.share_memfd(domid, memfd)
    try:
        mem = _create_memory(hv, domid, memfd, max_pages, limits, engine, privileged=privileged)
    except XenError:
        hv.forget_extents(domid)
        os.close(memfd)
        os.close(mailbox_fd)
        raise
    mailbox = _mailbox(hv, domid, mailbox_fd, engine, limits.nr_vcpus)
    domain = Domain(domid, handle, mem, mailbox, memfd, mailbox_fd, privileged=privileged)
    if mem.p2m is not None:
        domain.kind = Kind.HVM
    domain.events = _event_channels(hv, domain, limits)
    hv.domains[domid] = domain
    try:
        domain.grants = _grant_table(hv, domain, limits)
        domain.has_grants = True
        _add_vcpus(hv, domain, limits.nr_vcpus)
        _add_shared_info(hv, domain)
        if engine is Engine.X86_64_SHADOW:
            set_shadow_frames(hv, domain, FIRST_SHADOW_FRAMES)
        hv.processes.fork(domain)
    except XenError:
        begin_destroy(hv, domain)
        raise
    return domain


def _create_memory(
    hv: Hypervisor,
    domid: DomId,
    memfd: int,
    max_pages: int,
    limits: Limits,
    engine: Engine,
    *,
    privileged: bool,
) -> DomainMemory:
    """XenError(ENOMEM)."""
    return hv.mmu.create(
        domid,
        memfd,
        hv.memory_frames + GRANT_OVERHEAD_FRAMES,
        max_pages=max_pages,
        privileged=privileged,
        nr_vcpus=limits.nr_vcpus,
        translated=engine.translated,
    )


def _mailbox(hv: Hypervisor, domid: DomId, fd: int, engine: Engine, nr_vcpus: int) -> Mailbox:
    """The new domain's mailbox, with what the core says in it once."""
    mailbox = Mailbox(fd)
    mailbox.set_engine(engine)
    mailbox.set_epoch(hv.clock.boot_ns)
    mailbox.set_vcpus(nr_vcpus)
    if hv.seed is not None:
        mailbox.timesheet.set_seed(Random(f"{hv.seed} d{domid}").getrandbits(64))
    return mailbox


def _event_channels(hv: Hypervisor, domain: Domain, limits: Limits) -> EventChannels:
    """The domain's event channels. What they tell a vCPU goes to run control: `raise_port` is how every event arrives."""

    def raise_port(port: Port, vcpu_id: int) -> None:
        hv.raise_port(domain, port, vcpu_id)

    def wake_poller(vcpu_id: int) -> None:
        hv.run.vcpu_unblock(domain.vcpus[vcpu_id])

    events = EventChannels(
        domain.domid,
        raise_port,
        wake_poller=wake_poller,
        domains=lambda other: hv.domain(other).events,
        nr_vcpus=lambda: len(domain.vcpus),
        virqs=hv.virqs,
        max_port=limits.max_evtchn_port,
    )
    events.nr_channels = lambda: domain.shared_abi.nr_event_channels
    return events


def _grant_table(hv: Hypervisor, domain: Domain, limits: Limits) -> GrantTable:
    """XenError(ENOMEM): there is no frame for it."""
    table = GrantTable(
        domain.mem,
        hv.mmu,
        limits.grants,
        domains=lambda other: hv.domain(other).grants,
        atomics=hv.atomics,
    )
    table.grow(INITIAL_NR_GRANT_FRAMES)
    return table


def _add_vcpus(hv: Hypervisor, domain: Domain, count: int) -> None:
    translates = domain.mailbox.engine is not Engine.PYTHON
    for vcpu_id in range(count):
        unit = SchedUnit(domain.domid, vcpu_id, domain.handle)
        unit.runstate.state_entry_time = hv.now()
        vcpu = Vcpu(vcpu_id, domain, domain.mem.vcpus[vcpu_id], unit)
        vcpu.mem.cpu = EffectPort(vcpu.effects, domain.effects, translates=translates)
        vcpu.mem.guest_paging = partial(domain.mailbox.guest_paging, vcpu_id)
        domain.vcpus.append(vcpu)
        hv.run.add(vcpu)
    domain.effects.append([Effect.MAP_EXTENT, M2P_MEMFD, 0, XEN_FRAMES, 0])
    domain.effects.extend(hv.first_effects(domain))


def _add_shared_info(hv: Hypervisor, domain: Domain) -> None:
    """XenError(ENOMEM): there is no frame for it."""
    domain.shared_info = hv.mmu.allocator.alloc_xen_page(domain.mem, writable=True)
    write_shared_info(hv, domain)
    if domain.mem.p2m is not None:  # no start info names these to the process of a translated domain
        domain.effects.extend(
            [[Effect.P2M, domain.mem.p2m.top], [Effect.VCPU_INFO, 0, domain.shared_info, 0]]
        )


def write_shared_info(hv: Hypervisor, domain: Domain) -> None:
    """The wall clock time at system time 0, in the guest's layout; the rest of the page is the process's to write."""
    seconds, ns = divmod(hv.clock.wall() - hv.now(), 10**9)
    words = {"wc_version": 2, "wc_sec": seconds & 0xFFFF_FFFF, "wc_nsec": ns}
    words["wc_sec_hi" if domain.abi is NATIVE else "arch.wc_sec_hi"] = seconds >> 32
    base, layout = domain.shared_info << 12, domain.abi.layout(shared_info)
    hv.mmu.contents.clear(domain.shared_info)
    for name, value in words.items():
        hv.memory.write(base + layout.offsetof(name), value.to_bytes(4, "little"))
    for vcpu in () if domain.is_hvm else domain.vcpus:  # a PV guest begins with its upcalls masked
        hv.memory.write(base + layout.offsetof("vcpu_info") + 64 * vcpu.vcpu_id + 1, b"\1")


def begin_destroy(hv: Hypervisor, domain: Domain) -> None:
    """Mark the domain dying (K1) and begin to take it apart; `hv.work` goes on with it. Idempotent."""
    if domain.life is not Life.ALIVE:
        return
    domain.life = Life.DYING
    domain.mem.dying = True
    domain.events.dying = True
    hv.timers.stop_domain(domain.domid)
    for vcpu in domain.vcpus:
        hv.run.end(vcpu)
    hv.processes.kill(domain)
    hv.work.append(Work(domain, lambda: _destroy_step(hv, domain)))


def _destroy_step(hv: Hypervisor, domain: Domain) -> bool:
    """One bounded step of K2; True when the background has nothing more to do for now."""
    budget = Budget()
    steps = (_release_maps, _close_ports, _release_areas, _relinquish)
    try:
        while domain.death_step < DEATH_STEPS:
            if not steps[domain.death_step](hv, domain, budget):
                return False
            domain.death_step += 1
    except Restart:
        return False
    hv.virqs.send(VIRQ_DOM_EXC)
    complete_destroy(hv, domain)
    return True


def _release_maps(hv: Hypervisor, domain: Domain, budget: Budget) -> bool:
    return not domain.has_grants or release_maps(domain.grants)


def _close_ports(hv: Hypervisor, domain: Domain, budget: Budget) -> bool:
    return domain.events.close_all()


def _release_areas(hv: Hypervisor, domain: Domain, budget: Budget) -> bool:
    for vcpu in domain.vcpus:
        frame, vcpu.info_frame = vcpu.info_frame, None
        if frame is not None:
            hv.mmu.types.put_page_and_type(frame)
    frame, domain.shared_info = domain.shared_info, NO_FRAME
    if frame:
        hv.mmu.allocator.free_xen_page(frame)
    return True


def _relinquish(hv: Hypervisor, domain: Domain, budget: Budget) -> bool:
    return hv.mmu.relinquish(domain.mem, budget)


def complete_destroy(hv: Hypervisor, domain: Domain) -> None:
    """The last step: when the process is gone and nobody holds a frame any more, the domain and its id are free (K4)."""
    if domain.life is not Life.DYING or domain.death_step < DEATH_STEPS:
        return
    if domain.has_grants:
        domain.grants.destroy()
    if domain.pid:  # process_gone comes back here
        return
    if not hv.mmu.release_extents(domain.mem):
        domain.retry_ns = min(2 * domain.retry_ns or RETRY_NS, MAX_RETRY_NS)
        hv.timers.set(TimerKind.DEATH_RETRY, domain.domid, 0, hv.now() + domain.retry_ns)
        return
    hv.forget_extents(domain.domid)
    hv.timers.stop_domain(domain.domid)
    domain.life = Life.DEAD
    for vcpu in domain.vcpus:
        hv.run.forget(vcpu)
    del hv.domains[domain.domid]
    hv.counters.forget(domain.domid)
    hv.processes.gone(domain)
    domain.mailbox.close()
    os.close(domain.memfd)
    os.close(domain.mailbox_fd)
    hv.virqs.send(VIRQ_DOM_EXC)


def process_gone(hv: Hypervisor, domain: Domain) -> None:
    """The domain's process ended, by itself, by `kill` or by somebody's signal."""
    domain.pid = 0
    if domain.life is Life.ALIVE:
        hv.log.line(f"d{domain.domid}: its process died")
        begin_destroy(hv, domain)
    else:
        complete_destroy(hv, domain)
