"""Debug keys: what the hypervisor tells of its own state, line by line, into its log (Xen common/keyhandler.c).

One literal table from key to report. A report is a generator: whoever runs it takes as many lines as its slice allows
and goes on later (Q4); domains that come or go in between are or are not told of. Nothing is changed, and what is read
of a page that a guest writes is printed and never used.

Differences from Xen, on purpose: every table ends in its count, so that a census can be read from the log; a guest's
grants are named by granter and user; the keys that need hardware, or stop it, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from hypervisor.domain.domain import NO_FRAME, Domain, Life
from hypervisor.domain.hypervisor import Hypervisor
from hypervisor.events.channel import ECS, Channel
from hypervisor.machine.frame_types import PGT, XEN
from hypervisor.public.types import PAGE_SHIFT, GrantRef
from hypervisor.public.xen import DOMID_FIRST_RESERVED, Hypercall, shared_info
from hypervisor.sched.scheduler import Scheduler

Report = Iterator[str]

NS_PER_MS: Final = 1_000_000


def domains_now(hv: Hypervisor) -> Iterator[Domain]:
    """Every domain there is when its turn comes, in order of their ids."""
    for domid in sorted(hv.domains):
        if domid in hv.domains:
            yield hv.domains[domid]


def show_handlers(hv: Hypervisor) -> Report:
    """A line a key."""
    for key, (what, _) in KEYS.items():
        yield f" key '{key}' => {what}"


# --- 'e' -------------------------------------------------------------------------------------------


def dump_evtchn_info(hv: Hypervisor) -> Report:
    """The event channels of every domain."""
    for domain in domains_now(hv):
        yield from dump_ports(hv, domain)


def dump_ports(hv: Hypervisor, domain: Domain) -> Report:
    """A line a port that is not free; p, m: its bits in shared_info now."""
    events = domain.events
    yield f"Event channel information for domain {domain.domid}: (polling vCPUs: {sorted(events.pollers)})"
    yield "    port [p/m], state, notified vCPU, whether Xen's own"
    for port in range(1, len(events)):
        channel = events.channel(port)
        if channel.state is not ECS.FREE:
            pending, masked = shared_bits(hv, domain, port)
            consumer = int(bool(channel.xen_consumer))
            bound = f"s={channel.state.name} n={channel.notify_vcpu_id} x={consumer}{peer(channel)}"
            yield f"    {port:4} [{pending}/{masked}]: {bound}"
    yield f"  domain {domain.domid}: {events.active} ports, {events.max_port} at most"


def peer(channel: Channel) -> str:
    """What the port leads to."""
    match channel.state:
        case ECS.UNBOUND:
            return f" d={channel.remote_domid}"
        case ECS.INTERDOMAIN:
            return f" d={channel.remote_domid} p={channel.remote_port}"
        case ECS.PIRQ:
            return f" p={channel.pirq}"
        case ECS.VIRQ:
            return f" v={channel.virq}"
        case _:
            return ""


def shared_bits(hv: Hypervisor, domain: Domain, port: int) -> tuple[int, int]:
    """(pending, masked) as the guest's page says."""
    if domain.shared_info == NO_FRAME:
        return 0, 0
    page, layout = domain.shared_info << PAGE_SHIFT, domain.shared_abi.layout(shared_info)

    def bit(field: str) -> int:
        return hv.memory.read(page + layout.offsetof(field) + port // 8, 1)[0] >> port % 8 & 1

    return bit("evtchn_pending"), bit("evtchn_mask")


# --- 'g' -------------------------------------------------------------------------------------------


def gnttab_usage(hv: Hypervisor) -> Report:
    """The grants in use of every domain."""
    for domain in domains_now(hv):
        if domain.has_grants:
            yield from usage_of(domain)


def usage_of(domain: Domain) -> Report:
    """A line for each pinned entry: its user, the frame, the core's pins and the guest's flags."""
    table = domain.grants
    yield (
        f"grant-table for domain {domain.domid} (v{table.shared.version}): {len(table.frames)} frames "
        f"({table.max_grant_frames} max)"
    )
    for ref in sorted(table.active):
        if ref in table.active:
            active = table.active[ref]
            flags = table.shared.head(GrantRef(ref)) & 0xFFFF | table.shared.status(GrantRef(ref))
            yield (
                f"  [{ref:#05x}] user d{active.domid} mfn {active.mfn:#x} pin {active.pin:#010x} flags {flags:#06x}"
            )
    yield (
        f"  domain {domain.domid}: {len(table.active)} active entries, {len(table.maptrack)} maps of others' grants"
    )


# --- 'm' -------------------------------------------------------------------------------------------


def pagealloc_info(hv: Hypervisor) -> Report:
    """The machine's quota, and the frames of all domains by type."""
    yield f"Physical memory information: {hv.memory_frames} frames of 4 KiB, {hv.free_frames} free"
    frames = hv.frames
    owners = frames.owner_np[: frames.top]
    owned = (owners >= 0) & (owners < DOMID_FIRST_RESERVED)
    xen = owned & ((frames.flags_np[: frames.top] & XEN) != 0)
    types = np.bincount(frames.type_np[: frames.top][owned & ~xen], minlength=max(PGT) + 1)
    for kind in PGT:
        yield f"    {kind.name}: {types[kind]}"
    yield f"    Xen's own, shared with a domain: {np.count_nonzero(xen)}"


# --- 'q' -------------------------------------------------------------------------------------------


def dump_domains(hv: Hypervisor) -> Report:
    """Every domain with its vCPUs."""
    for domain in domains_now(hv):
        yield from general_information(hv, domain)
    yield f"  {len(hv.domains)} domains"


def general_information(hv: Hypervisor, domain: Domain) -> Report:
    """One domain with its vCPUs, and the ms each spent in each run state."""
    mem = domain.mem
    yield f"General information for domain {domain.domid}:"
    yield (
        f"    {domain.life.name.lower()} pause_count={domain.pause_count} shutdown={domain.shutdown_code} "
        f"process={domain.pid}"
    )
    yield f"    nr_pages={mem.tot_pages} max_pages={mem.max_pages} extents={len(mem.extents.bases)}"
    yield f"    handle={domain.handle.hex()} vm_assist={domain.vm_assist:08x}"
    for vcpu in domain.vcpus:
        unit = vcpu.unit
        times = ", ".join(f"{ns // NS_PER_MS}" for ns in unit.runstate.times(hv.now()))
        yield (
            f"    VCPU{vcpu.vcpu_id}: CPU{'-' if unit.cpu is None else unit.cpu} {unit.runstate.state.name} "
            f"poll={len(vcpu.run.ports)} (running, runnable, blocked, offline: {times} ms)"
        )


# --- 'p' -------------------------------------------------------------------------------------------


def perfc_printall(hv: Hypervisor) -> Report:
    """What was counted: the machine's, then each domain's, and the hypercalls by name."""
    yield f"  longest busy: {hv.busiest.what}, {hv.busiest.us} us of CPU time"
    for name, count in list(hv.counters.by_name()):
        yield f"    {name}: {count}"
    names = {int(hypercall): hypercall.name for hypercall in Hypercall}
    for nr, count in enumerate(list(hv.counters.hypercalls)):
        if count:
            yield f"    hypercall {names.get(nr, nr)}: {count}"
    yield f"  {sum(hv.counters.hypercalls)} hypercalls"


# --- 'r' -------------------------------------------------------------------------------------------


def dump_runq(hv: Hypervisor) -> Report:
    """Every CPU pool: its scheduler, who has its CPUs, and its domains with their parameters and affinities."""
    slices = hv.run.slices
    pools = slices.pools
    yield f"  {pools.nr_cpus} CPUs, free ones: {pools.free_cpus():#x}"
    for pool_id in sorted(pools.by_id):
        if (pool := pools.by_id.get(pool_id)) is None:
            continue
        yield f"Cpupool {pool_id}: {pool.scheduler.name}, CPUs {pool.cpus:#x}, {pool.scheduler.global_params()}"
        for cpu, unit in enumerate(slices.cpus):
            if pool.cpus >> cpu & 1:
                yield f"    CPU{cpu}: " + ("idle" if unit is None else f"d{unit.domid}v{unit.vcpu_id}")
        for domain in domains_now(hv):
            if pools.of_domain(domain.domid) is pool and domain.life is Life.ALIVE:
                yield from dump_units(hv, domain, pool.scheduler)
    yield f"  {len(pools.by_id)} CPU pools"


def dump_units(hv: Hypervisor, domain: Domain, scheduler: Scheduler) -> Report:
    """One domain's parameters, where its vCPUs may and should run, and what the scheduler knows of each."""
    every = (1 << hv.nr_cpus) - 1
    yield f"    d{domain.domid}: {scheduler.params(domain.domid)}"
    for vcpu in domain.vcpus:
        unit = vcpu.unit
        yield (
            f"      VCPU{vcpu.vcpu_id}: {unit.runstate.state.name} hard={unit.hard & every:#x} "
            f"soft={unit.soft & every:#x} {scheduler.describe(unit, hv.now())}"
        )


KEYS: Final[dict[str, tuple[str, Callable[[Hypervisor], Report]]]] = {
    "e": ("dump evtchn info", dump_evtchn_info),
    "g": ("print grant table usage", gnttab_usage),
    "h": ("show this message", show_handlers),
    "m": ("memory info", pagealloc_info),
    "p": ("print performance counters", perfc_printall),
    "q": ("dump domain info", dump_domains),
    "r": ("dump run queues", dump_runq),
}


def press(hv: Hypervisor, keys: bytes) -> Report:
    """The reports of several keys, one after the other; a key that means nothing is passed over, as on Xen."""
    for code in keys:
        key = chr(code)
        if key in KEYS:
            what, report = KEYS[key]
            yield f"'{key}' pressed -> {what} (now = {hv.now()} ns)"
            yield from report(hv)
