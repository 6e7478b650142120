"""sysctl: the control domain's hypercall on the machine (Xen common/sysctl.c)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from itertools import islice
from typing import Final

from hypervisor.domain.debug_keys import press
from hypervisor.domain.info import domain_info
from hypervisor.hypercalls.call import Call, Continue, Result
from hypervisor.hypercalls.cpu_policy import do_get_cpu_featureset, do_get_system_policy, featureset
from hypervisor.hypercalls.sysctl_sched import SCHED_SYSCTLS
from hypervisor.machine.counters import MACHINE_COUNTERS
from hypervisor.machine.cpuid import LEAVES as HOST
from hypervisor.machine.cpuid import TSC_KHZ
from hypervisor.public.domctl import xen_domctl_getdomaininfo
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.sysctl import (
    XEN_SYSCTL_INTERFACE_VERSION,
    XEN_SYSCTL_availheap,
    XEN_SYSCTL_debug_keys,
    XEN_SYSCTL_get_cpu_featureset,
    XEN_SYSCTL_get_cpu_policy,
    XEN_SYSCTL_getdomaininfolist,
    XEN_SYSCTL_numainfo,
    XEN_SYSCTL_perfc_op,
    XEN_SYSCTL_PERFCOP_query,
    XEN_SYSCTL_PERFCOP_reset,
    XEN_SYSCTL_PHYSCAP_gnttab_v1,
    XEN_SYSCTL_PHYSCAP_gnttab_v2,
    XEN_SYSCTL_PHYSCAP_hap,
    XEN_SYSCTL_PHYSCAP_hvm,
    XEN_SYSCTL_PHYSCAP_pv,
    XEN_SYSCTL_PHYSCAP_shadow,
    XEN_SYSCTL_physinfo,
    XEN_SYSCTL_readconsole,
    xen_sysctl,
    xen_sysctl_meminfo,
    xen_sysctl_perfc_desc,
    xen_sysctl_physinfo,
)
from hypervisor.public.types import PAGE_SIZE, U32

MAX_DOMAINS_A_CALL: Final = 256
MAX_KEYS_A_CALL: Final = 64
LINES_A_SLICE: Final = 512
LOCAL_DISTANCE: Final = 10
"""Of a node from itself, as ACPI's SLIT has it."""
HW_CAP_WORDS: Final = 8
CAPABILITIES: Final = (
    XEN_SYSCTL_PHYSCAP_hvm,
    XEN_SYSCTL_PHYSCAP_pv,
    XEN_SYSCTL_PHYSCAP_hap,
    XEN_SYSCTL_PHYSCAP_shadow,
    XEN_SYSCTL_PHYSCAP_gnttab_v1,
    XEN_SYSCTL_PHYSCAP_gnttab_v2,
)


def do_readconsole(call: Call, op: xen_sysctl) -> Result:
    """The hypervisor's log, from the start or (incremental) from `index` on; `count` bytes at most."""
    console, log = op.u.readconsole, call.hv.log
    held = log.read()
    start = max(console.index, log.start & 0xFFFF_FFFF) if console.incremental else log.start & 0xFFFF_FFFF
    skip = start - (log.start & 0xFFFF_FFFF)
    text = held[skip : skip + min(console.count, len(held))] if skip <= len(held) else b""
    call.copy_to_guest(console.buffer, text)
    if console.clear:
        log.clear()
    console.count, console.index = len(text), (start + len(text)) & 0xFFFF_FFFF
    op.u.readconsole = console
    call.write(call.args[0], op)
    return 0


def do_physinfo(call: Call, op: xen_sysctl) -> Result:
    """CPUs and frames of the machine, and what it is capable of."""
    hv = call.hv
    op.u.physinfo = xen_sysctl_physinfo(
        threads_per_core=1,
        cores_per_socket=hv.nr_cpus,
        nr_cpus=hv.nr_cpus,
        max_cpu_id=hv.nr_cpus - 1,
        nr_nodes=1,
        cpu_khz=TSC_KHZ,
        capabilities=sum(map(int, CAPABILITIES)),
        total_pages=hv.memory_frames,
        free_pages=hv.free_frames,
        max_mfn=hv.memory.nr_frames - 1,
        hw_cap=tuple(featureset(HOST)[:HW_CAP_WORDS]),
    )
    call.write(call.args[0], op)
    return 0


def do_getdomaininfolist(call: Call, op: xen_sysctl) -> Result:
    """The domains from `first_domain` up, in order of their ids."""
    listing, hv = op.u.getdomaininfolist, call.hv
    ids = sorted(domid for domid in hv.domains if domid >= listing.first_domain)
    ids = ids[: min(listing.max_domains, MAX_DOMAINS_A_CALL)]
    infos = b"".join(domain_info(hv, hv.domains[domid]).pack() for domid in ids)
    assert len(infos) == len(ids) * xen_domctl_getdomaininfo.sizeof
    if infos:
        call.copy_to_guest(listing.buffer, infos)
    listing.num_domains = len(ids)
    op.u.getdomaininfolist = listing
    call.write(call.args[0], op)
    return 0


def do_numainfo(call: Call, op: xen_sysctl) -> Result:
    """One node, which has all memory. Without arrays: only how many nodes there are."""
    numa, hv = op.u.numainfo, call.hv
    nodes = min(numa.num_nodes, 1) if numa.meminfo or numa.distance else 1
    if nodes and numa.meminfo:
        size, free = hv.memory_frames * PAGE_SIZE, hv.free_frames * PAGE_SIZE
        call.write(numa.meminfo, xen_sysctl_meminfo(memsize=size, memfree=free))
    if nodes and numa.distance:
        call.copy_to_guest(numa.distance, LOCAL_DISTANCE.to_bytes(4, "little"))
    numa.num_nodes = nodes
    op.u.numainfo = numa
    call.write(call.args[0], op)
    return 0


def do_availheap(call: Call, op: xen_sysctl) -> Result:
    """How much memory is free, in bytes."""
    heap = op.u.availheap
    heap.avail_bytes = call.hv.free_frames * PAGE_SIZE
    op.u.availheap = heap
    call.write(call.args[0], op)
    return 0


def do_perfc_op(call: Call, op: xen_sysctl) -> Result:
    """The machine's counters: the hypercalls by number, those of MACHINE_COUNTERS, and for how many µs of CPU time the core was
    busy with one thing at most, which the counter's name tells; so the hash of a machine that repeats itself is told. Buffers
    hold as many as a query without buffers has told.
    """
    perfc, counters, busiest = op.u.perfc_op, call.hv.counters, call.hv.busiest
    if perfc.cmd == XEN_SYSCTL_PERFCOP_reset:
        counters.reset()
        busiest.reset()
    elif perfc.cmd != XEN_SYSCTL_PERFCOP_query:
        raise XenError(Errno.EINVAL, f"perfc_op {perfc.cmd}")
    rows = [("hypercalls", counters.hypercalls)]
    rows += [(name, [counters[name]]) for name in MACHINE_COUNTERS]
    rows += [(f"longest busy, us: {busiest.what}", [busiest.us])]
    if call.hv.run_hash is not None:
        rows += [(f"run hash: {call.hv.run_hash() if perfc.desc else ''}", [0])]
    values = [value & U32 for _, row in rows for value in row]
    if perfc.desc:
        descs = (xen_sysctl_perfc_desc(name=name.encode()[:79], nr_vals=len(row)) for name, row in rows)
        call.copy_to_guest(perfc.desc, b"".join(desc.pack() for desc in descs))
    if perfc.val:
        call.copy_to_guest(perfc.val, struct.pack(f"<{len(values)}I", *values))
    perfc.nr_counters, perfc.nr_vals = len(rows), len(values)
    op.u.perfc_op = perfc
    call.write(call.args[0], op)
    return 0


def do_debug_keys(call: Call, op: xen_sysctl) -> Result:
    """Each key's report goes into the log, LINES_A_SLICE lines at a time."""
    report = call.state
    if not isinstance(report, Generator):
        pressed = op.u.debug_keys
        if pressed.nr_keys > MAX_KEYS_A_CALL:
            raise XenError(Errno.E2BIG, f"{pressed.nr_keys} debug keys at once")
        report = press(
            call.hv, call.copy_from_guest(pressed.keys, pressed.nr_keys) if pressed.nr_keys else b""
        )
    lines = list(islice(report, LINES_A_SLICE))
    for line in lines:
        call.hv.log.line(line)
    return Continue(call.args, report) if len(lines) == LINES_A_SLICE else 0


SYSCTL_OPS: Final[dict[int, Callable[[Call, xen_sysctl], Result]]] = {
    XEN_SYSCTL_readconsole: do_readconsole,
    XEN_SYSCTL_physinfo: do_physinfo,
    XEN_SYSCTL_debug_keys: do_debug_keys,
    XEN_SYSCTL_perfc_op: do_perfc_op,
    XEN_SYSCTL_getdomaininfolist: do_getdomaininfolist,
    XEN_SYSCTL_availheap: do_availheap,
    XEN_SYSCTL_numainfo: do_numainfo,
    XEN_SYSCTL_get_cpu_featureset: do_get_cpu_featureset,
    XEN_SYSCTL_get_cpu_policy: do_get_system_policy,
    **SCHED_SYSCTLS,
}


def do_sysctl(call: Call) -> Result:
    """Checks privilege and interface version, and performs the operation. EPERM, EACCES, ENOSYS."""
    call.require_control()
    op = call.read(call.args[0], xen_sysctl)
    if op.interface_version != XEN_SYSCTL_INTERFACE_VERSION:
        raise XenError(Errno.EACCES, f"sysctl interface version {op.interface_version:#x}")
    handler = SYSCTL_OPS.get(op.cmd)
    if handler is None:
        raise XenError(Errno.ENOSYS, f"sysctl {op.cmd}")
    return handler(call, op)
