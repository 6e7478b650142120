"""Xen's control interface as calls with plain arguments: what libxenctrl is for xl.

Every method is one hypercall, or a bounded row of them for arrays longer than the argument area takes.
Errors are XenError with Xen's number. Domains other than the caller need privilege, which Dom0 has from boot.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.public.arch_x86.xen import XEN_X86_EMU_LAPIC, vcpu_guest_context, xen_arch_domainconfig
from hypervisor.public.compat import compat_vcpu_guest_context
from hypervisor.public.domctl import (
    XEN_DOMCTL_INTERFACE_VERSION,
    Domctl,
    XEN_DOMCTL_GRANT_version_mask,
    xen_domctl,
    xen_domctl_createdomain,
    xen_domctl_getdomaininfo,
    xen_domctl_hypercall_init,
    xen_domctl_max_mem,
    xen_domctl_max_vcpus,
    xen_domctl_paging_mempool,
    xen_domctl_u,
    xen_domctl_vcpucontext,
)
from hypervisor.public.domctl_domain import (
    XEN_DOMCTL_CDF_hap,
    XEN_DOMCTL_CDF_hvm,
    XEN_DOMINF_blocked,
    XEN_DOMINF_dying,
    XEN_DOMINF_hvm_guest,
    XEN_DOMINF_paused,
    XEN_DOMINF_running,
    XEN_DOMINF_shutdown,
    XEN_DOMINF_shutdownmask,
    XEN_DOMINF_shutdownshift,
    XENOSCOPE_CDF_python,
    xen_domctl_address_size,
)
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.event_channel import EVTCHNOP_alloc_unbound, evtchn_alloc_unbound
from hypervisor.public.grant_table import GNTST_okay, GNTTABOP_setup_table, gnttab_setup_table
from hypervisor.public.memory import XENMEM_populate_physmap, xen_memory_reservation
from hypervisor.public.sched import SHUTDOWN_crash
from hypervisor.public.sysctl import (
    XEN_SYSCTL_INTERFACE_VERSION,
    Sysctl,
    XEN_SYSCTL_PERFCOP_query,
    xen_sysctl,
    xen_sysctl_debug_keys,
    xen_sysctl_getdomaininfolist,
    xen_sysctl_perfc_desc,
    xen_sysctl_perfc_op,
    xen_sysctl_physinfo,
    xen_sysctl_readconsole,
    xen_sysctl_u,
)
from hypervisor.public.types import DomId, Mfn, Port
from hypervisor.public.xen import (
    DOMID_INVALID,
    MMUEXT_PIN_L1_TABLE,
    mmuext_op,
    mmuext_op_arg1,
)

EXTENTS_AT_ONCE: Final = 512
"""Frame numbers in one call: what fits into a page of arguments."""

MAXMEM_CONSTANT: Final = 1024
"""KiB that a domain may have beyond its memory: libxl's LIBXL_MAXMEM_CONSTANT."""
DOMAINS_AT_ONCE: Final = 32
CONSOLE_CHUNK: Final = 4096


@dataclass(frozen=True, slots=True)
class DomainInfo:
    """XEN_DOMCTL_getdomaininfo in the words of the list that people read."""

    domid: DomId
    handle: bytes
    flags: int
    tot_pages: int
    max_pages: int
    shared_info_frame: Mfn
    cpu_time: int
    vcpus: int
    max_vcpus: int
    cpupool: int
    pid: int
    """The host's process behind it; 0: there is none."""

    @property
    def shutdown(self) -> int | None:
        """Why it shut down, if it did: a SHUTDOWN_…, or any other number up to 255, for the guest chose it."""
        if not self.flags & XEN_DOMINF_shutdown:
            return None
        return self.flags >> XEN_DOMINF_shutdownshift & XEN_DOMINF_shutdownmask

    @property
    def dying(self) -> bool:
        """Whether it is being taken apart."""
        return bool(self.flags & XEN_DOMINF_dying)

    @property
    def translated(self) -> bool:
        """Whether it has frame numbers of its own in place of the machine's: a PVH domain."""
        return bool(self.flags & XEN_DOMINF_hvm_guest)

    @property
    def paused(self) -> bool:
        """Whether the toolstack has paused it."""
        return bool(self.flags & XEN_DOMINF_paused)

    @property
    def state(self) -> str:
        """xl's six letters: running, blocked, paused, shut down, crashed, dying."""
        crashed = self.shutdown == SHUTDOWN_crash
        letters = (
            ("r", self.flags & XEN_DOMINF_running),
            ("b", self.flags & XEN_DOMINF_blocked),
            ("p", self.flags & XEN_DOMINF_paused),
            ("s", self.flags & XEN_DOMINF_shutdown),
            ("c", crashed),
            ("d", self.flags & XEN_DOMINF_dying),
        )
        return "".join(letter if set_ else "-" for letter, set_ in letters)


class XenCtrl:
    """One per toolstack."""

    def __init__(self, kernel: Kernel) -> None:
        self._hypercalls = kernel.hypercalls
        self._load = kernel.cpu.load

    def createdomain(
        self,
        handle: bytes,
        max_vcpus: int,
        grant_frames: int,
        maptrack_frames: int,
        grant_version: int,
        max_port: int,
        *,
        python: bool,
        cpupool: int = 0,
        hvm: bool = False,
        hap: bool = True,
    ) -> DomId:
        """A new domain without vCPUs and memory, paused; its id is Xen's choice. Limits of -1: Xen's
        default. `python`: its guest is a Python class; else it is machine code, whatever lies in its memory.
        `hvm`: a PVH domain, with nested paging if `hap`. `cpupool`: the id of its CPU pool.
        """
        arguments = xen_domctl_createdomain(
            handle=handle,
            flags=(XENOSCOPE_CDF_python if python else 0)
            | (XEN_DOMCTL_CDF_hvm if hvm else 0)
            | (XEN_DOMCTL_CDF_hap if hvm and hap else 0),
            max_vcpus=max_vcpus,
            max_evtchn_port=max_port,
            max_grant_frames=grant_frames,
            max_maptrack_frames=maptrack_frames,
            grant_opts=grant_version & XEN_DOMCTL_GRANT_version_mask,
            cpupool_id=cpupool,
            arch=xen_arch_domainconfig(emulation_flags=int(XEN_X86_EMU_LAPIC) if hvm else 0),
        )
        op = self.domctl(Domctl.XEN_DOMCTL_createdomain, DOMID_INVALID, xen_domctl_u(createdomain=arguments))
        return DomId(op.domain)

    def destroydomain(self, domid: DomId) -> None:
        """Ends when all its frames that nobody else holds are back."""
        self.domctl(Domctl.XEN_DOMCTL_destroydomain, domid)

    def pausedomain(self, domid: DomId) -> None:
        """Stops the domain; pauses count."""
        self.domctl(Domctl.XEN_DOMCTL_pausedomain, domid)

    def unpausedomain(self, domid: DomId) -> None:
        """Undoes one pause. XenError(EINVAL): it is not paused."""
        self.domctl(Domctl.XEN_DOMCTL_unpausedomain, domid)

    def max_vcpus(self, domid: DomId, vcpus: int) -> None:
        """Says once how many vCPUs the domain has."""
        self.domctl(
            Domctl.XEN_DOMCTL_max_vcpus, domid, xen_domctl_u(max_vcpus=xen_domctl_max_vcpus(max=vcpus))
        )

    def max_mem(self, domid: DomId, kib: int) -> None:
        """The most memory it may ever have."""
        limit = xen_domctl_max_mem(max_memkb=kib)
        self.domctl(Domctl.XEN_DOMCTL_max_mem, domid, xen_domctl_u(max_mem=limit))

    def set_paging_mempool_size(self, domid: DomId, size: int) -> None:
        """The bytes that the shadow page tables of a domain may take. XenError(ENOMEM, EOPNOTSUPP: it has nested paging)."""
        pool = xen_domctl_paging_mempool(size=size)
        self.domctl(Domctl.XEN_DOMCTL_set_paging_mempool_size, domid, xen_domctl_u(paging_mempool=pool))

    def setvcpucontext(
        self, domid: DomId, vcpu: int, context: vcpu_guest_context | compat_vcpu_guest_context
    ) -> None:
        """The initial state of a vCPU of a paused domain, in the layout of its width."""
        with self._hypercalls.arguments as area:
            where = xen_domctl_vcpucontext(vcpu=vcpu, ctxt=area.push(context.pack()))
            self.domctl(Domctl.XEN_DOMCTL_setvcpucontext, domid, xen_domctl_u(vcpucontext=where))

    def hypercall_init(self, domid: DomId, frame: Mfn) -> None:
        """Let Xen write its hypercall page into the domain's frame."""
        page = xen_domctl_hypercall_init(gmfn=frame)
        self.domctl(Domctl.XEN_DOMCTL_hypercall_init, domid, xen_domctl_u(hypercall_init=page))

    def getdomaininfo(self, domid: DomId) -> DomainInfo | None:
        """That domain, or None if there is none with this id."""
        try:
            op = self.domctl(Domctl.XEN_DOMCTL_getdomaininfo, domid)
        except XenError as error:
            if error.errno is Errno.ESRCH:
                return None
            raise
        return domain_info(op.u.getdomaininfo) if op.domain == domid else None

    def domains(self) -> list[DomainInfo]:
        """All domains in the order of their ids, dying ones included."""
        found = page = self._domains_from(0)
        while len(page) == DOMAINS_AT_ONCE:
            page = self._domains_from(page[-1].domid + 1)
            found = found + page
        return found

    def all_domains(self) -> Task[list[DomainInfo]]:
        """The same as a task: with hundreds of domains it is the others' turn in between."""
        found = page = self._domains_from(0)
        while len(page) == DOMAINS_AT_ONCE:
            yield NEXT_TURN
            page = self._domains_from(page[-1].domid + 1)
            found = found + page
        return found

    def _domains_from(self, first: int) -> list[DomainInfo]:
        """Up to DOMAINS_AT_ONCE domains, those of the lowest ids from `first` on."""
        size = xen_domctl_getdomaininfo.sizeof
        with self._hypercalls.arguments as area:
            buffer = area.reserve(DOMAINS_AT_ONCE * size)
            request = xen_sysctl_getdomaininfolist(
                first_domain=DomId(first), max_domains=DOMAINS_AT_ONCE, buffer=buffer
            )
            op = self.sysctl(Sysctl.XEN_SYSCTL_getdomaininfolist, xen_sysctl_u(getdomaininfolist=request))
            count = op.u.getdomaininfolist.num_domains
            raw = self._load(buffer, count * size)
        return [domain_info(xen_domctl_getdomaininfo.unpack(raw, i * size)) for i in range(count)]

    def populate_physmap(self, domid: DomId, nr_pages: int) -> Task[npt.NDArray[np.uint64]]:
        """Give the domain `nr_pages` frames as pfn 0, 1, …; uint64[nr_pages], the Mfn of each.
        XenError(ENOMEM). It is the others' turn after each hypercall.
        """
        p2m = np.empty(nr_pages, np.uint64)
        for first in range(0, nr_pages, EXTENTS_AT_ONCE):
            pfns = np.arange(first, min(first + EXTENTS_AT_ONCE, nr_pages), dtype=np.uint64)
            p2m[first : first + len(pfns)] = self.populate(domid, pfns)
            yield NEXT_TURN
        return p2m

    def populate(self, domid: DomId, pfns: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Give the domain a frame for each of these pages, at most EXTENTS_AT_ONCE; the Mfn of each. XenError(ENOMEM)."""
        with self._hypercalls.arguments as area:
            va = area.push(pfns.astype("<u8").tobytes())
            request = xen_memory_reservation(extent_start=va, nr_extents=len(pfns), domid=domid)
            done = self._hypercalls.hypercall_memory_op(XENMEM_populate_physmap, request)
            if done != len(pfns):
                raise XenError(Errno.ENOMEM, f"{done} of {len(pfns)} pages from {pfns[0]:#x} on")
            return np.frombuffer(self._load(va, len(pfns) * 8), "<u8").astype(np.uint64)

    def alloc_unbound(self, domid: DomId, remote: DomId) -> Port:
        """A new port of `domid` that `remote` may bind to."""
        op = evtchn_alloc_unbound(dom=domid, remote_dom=remote)
        self._hypercalls.hypercall_event_channel_op(EVTCHNOP_alloc_unbound, op)
        return op.port

    def set_address_size(self, domid: DomId, bits: int) -> None:
        """The width of the guest's addresses, before it has memory; 64 without it."""
        size = xen_domctl_address_size(size=bits)
        self.domctl(Domctl.XEN_DOMCTL_set_address_size, domid, xen_domctl_u(address_size=size))

    def pin_table(self, domid: DomId, frame: Mfn, level: int) -> None:
        """Validate a domain's page tables from a table of `level` (1 to 4) on, and keep them valid."""
        op = mmuext_op(cmd=MMUEXT_PIN_L1_TABLE + level - 1, arg1=mmuext_op_arg1(mfn=frame))
        self._hypercalls.hypercall_mmuext_op([op], domid)

    def grant_table_frame(self, domid: DomId) -> Mfn:
        """The first frame of a domain's grant table."""
        with self._hypercalls.arguments as area:
            op = gnttab_setup_table(dom=domid, nr_frames=1, frame_list=area.push(bytes(8)))
            self._hypercalls.hypercall_grant_table_op(GNTTABOP_setup_table, [op])
            if op.status != GNTST_okay:
                raise XenError(Errno.EINVAL, f"grant table of domain {domid}: status {op.status}")
            return Mfn(int.from_bytes(self._load(op.frame_list, 8), "little"))

    def physinfo(self) -> xen_sysctl_physinfo:
        """The machine's CPUs and memory."""
        info: xen_sysctl_physinfo = self.sysctl(Sysctl.XEN_SYSCTL_physinfo, xen_sysctl_u()).u.physinfo
        return info

    def debug_keys(self, keys: bytes) -> None:
        """Have Xen write reports on its own state into its log, one for each key
        (hypervisor/domain/debug_keys.py).
        """
        with self._hypercalls.arguments as area:
            pressed = xen_sysctl_debug_keys(keys=area.push(keys), nr_keys=len(keys))
            self.sysctl(Sysctl.XEN_SYSCTL_debug_keys, xen_sysctl_u(debug_keys=pressed))

    def perfc_query(self) -> dict[str, list[int]]:
        """The core's counters, by name; what they are: hypervisor/hypercalls/sysctl.py, do_perfc_op."""
        query = int(XEN_SYSCTL_PERFCOP_query)

        def ask(desc: int, val: int) -> xen_sysctl_perfc_op:
            perfc = xen_sysctl_perfc_op(cmd=query, desc=desc, val=val)
            answer: xen_sysctl_perfc_op = self.sysctl(
                Sysctl.XEN_SYSCTL_perfc_op, xen_sysctl_u(perfc_op=perfc)
            ).u.perfc_op
            return answer

        wanted = ask(0, 0)
        with self._hypercalls.arguments as area:
            descs = area.push(bytes(wanted.nr_counters * xen_sysctl_perfc_desc.sizeof))
            vals = area.push(bytes(wanted.nr_vals * 4))
            ask(descs, vals)
            values = iter(struct.unpack(f"<{wanted.nr_vals}I", self._load(vals, wanted.nr_vals * 4)))
            found = {}
            for i in range(wanted.nr_counters):
                size = xen_sysctl_perfc_desc.sizeof
                desc = xen_sysctl_perfc_desc.unpack(self._load(descs + i * size, size))
                name = desc.name.rstrip(b"\0").decode("utf-8", "replace")
                found[name] = [next(values) for _ in range(desc.nr_vals)]
            return found

    def readconsole(self, clear: bool = False) -> bytes:
        """Everything the hypervisor's console ring holds."""
        return self.readconsole_from(0, clear)[0]

    def readconsole_from(self, index: int, clear: bool = False) -> tuple[bytes, int]:
        """What the console ring holds from a byte on, counted from the first ever written; and the index behind it."""
        text = b""
        while True:
            with self._hypercalls.arguments as area:
                buffer = area.push(bytes(CONSOLE_CHUNK))
                request = xen_sysctl_readconsole(
                    clear=clear, incremental=1, index=index, buffer=buffer, count=CONSOLE_CHUNK
                )
                op = self.sysctl(Sysctl.XEN_SYSCTL_readconsole, xen_sysctl_u(readconsole=request))
                part = op.u.readconsole
                if not part.count:
                    return text, index
                text += self._load(buffer, part.count)
                index = part.index

    def domctl(self, cmd: Domctl, domid: DomId, arguments: xen_domctl_u | None = None) -> xen_domctl:
        """Perform an operation on a domain; the argument as it is afterwards. XenError."""
        op = xen_domctl(
            cmd=cmd,
            interface_version=XEN_DOMCTL_INTERFACE_VERSION,
            domain=domid,
            u=arguments or xen_domctl_u(),
        )
        self._hypercalls.hypercall_domctl(op)
        return op

    def sysctl(self, cmd: Sysctl, arguments: xen_sysctl_u) -> xen_sysctl:
        """Perform an operation on the machine; the argument as it is afterwards. XenError."""
        op = xen_sysctl(cmd=cmd, interface_version=XEN_SYSCTL_INTERFACE_VERSION, u=arguments)
        self._hypercalls.hypercall_sysctl(op)
        return op


def domain_info(info: xen_domctl_getdomaininfo) -> DomainInfo:
    """Xen's record as plain values; CPU time in ns."""
    return DomainInfo(
        domid=DomId(info.domain),
        handle=info.handle,
        flags=info.flags,
        tot_pages=info.tot_pages,
        max_pages=info.max_pages,
        shared_info_frame=Mfn(info.shared_info_frame),
        cpu_time=info.cpu_time,
        vcpus=info.nr_online_vcpus,
        max_vcpus=info.max_vcpu_id + 1 & 0xFFFF_FFFF,
        cpupool=info.cpupool,
        pid=int.from_bytes(info.pad2, "little"),
    )
