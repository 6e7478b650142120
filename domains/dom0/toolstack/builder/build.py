"""Build a domain that exists and is empty: memory, page tables, start info, first vCPU; a PVH one in build_hvm.py.

The order is libxenguest's: limits, frames, ports, contents, page tables pinned, vCPU, grants for the store
and the console. All of it goes through hypercalls that any privileged domain could issue. On return the
domain is paused and complete; if anything is refused the exception passes through, and the caller destroys
the domain. It is a task of many turns, for Dom0 serves everybody meanwhile.
"""

from __future__ import annotations

import socket
from typing import Final

import numpy as np
import numpy.typing as npt

from domains.control.description import DomainConfig, GuestType
from domains.dom0.toolstack.builder import unpacking
from domains.dom0.toolstack.builder.build_hvm import HvmBuilder
from domains.dom0.toolstack.builder.memory_map import set_memory_map
from domains.dom0.toolstack.builder.prepared import Prepared, hypercall_pfn
from domains.dom0.toolstack.builder.rings import Built, seed_grants, write_pages
from domains.dom0.toolstack.builder.unpacking import Request, prepare_python
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.xenctrl import MAXMEM_CONSTANT, XenCtrl
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.builder.hvm_layout import HvmPlan
from hypervisor.builder.pv_contents import StartOfDay, start_of_day_contents, vcpu_context
from hypervisor.public.arch_x86.xen import XEN_LEGACY_MAX_VCPUS
from hypervisor.public.memory import E820_RAM, e820entry
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, DomId, MAddr, Mfn, Pfn
from hypervisor.public.xen import shared_info, vcpu_info

DOM0: Final = DomId(0)


def prepare(kernel: Kernel, unpacker: socket.socket, config: DomainConfig) -> Task[Prepared]:
    """Have `unpacker` read kernel and ramdisk and lay the domain out. Raises ToolstackError."""
    if config.python_guest is not None and config.ramdisk is None:
        return prepare_python(config.name, config.python_guest, config.memory)
    request = Request(
        config.name, config.kernel, config.ramdisk or "", config.populated_mib, config.type is GuestType.PVH
    )
    return (yield from unpacking.prepare(kernel, unpacker, request))


class Builder:
    """Builds one domain after another."""

    def __init__(self, kernel: Kernel, xen: XenCtrl) -> None:
        self._kernel = kernel
        self._xen = xen
        self._hvm = HvmBuilder(kernel, xen)

    def build(self, domid: DomId, config: DomainConfig, prepared: Prepared) -> Task[Built]:
        """Fill the domain `domid`, which has just been created. Raises XenError. It is everybody else's turn after each
        piece of work; nothing of the domain stays mapped meanwhile.
        """
        layout, xen = prepared.plan, self._xen
        if isinstance(layout, HvmPlan):
            return (yield from self._hvm.build(domid, config, prepared, layout))
        xen.max_vcpus(domid, config.maxvcpus)
        xen.max_mem(domid, config.memory * 1024 + MAXMEM_CONSTANT)
        whole = e820entry(size=config.maxmem << 20, type=int(E820_RAM))
        set_memory_map(self._kernel.hypercalls, domid, [whole])
        if layout.image.address_size != 64:
            xen.set_address_size(domid, layout.image.address_size)
        p2m = yield from xen.populate_physmap(domid, layout.nr_pages)
        store_port = xen.alloc_unbound(domid, DOM0)
        console_port = xen.alloc_unbound(domid, DOM0)
        shared = self._shared_info_frame(domid)
        self._mask_events(domid, shared)
        for run in prepared.runs:
            part = prepared.data[run.offset : run.offset + run.pages * PAGE_SIZE]
            yield from self._write(domid, p2m, run.pfn, part)
        day = StartOfDay(
            MAddr(shared << PAGE_SHIFT), 0, prepared.command_line(config.cmdline), store_port, console_port
        )
        for content in start_of_day_contents(layout, p2m, day):
            yield from self._write(domid, p2m, content.pfn, content.data.data)
        if (page := hypercall_pfn(layout.image)) is not None:
            xen.hypercall_init(domid, mfn_of(p2m, page))
        yield NEXT_TURN
        xen.pin_table(domid, mfn_of(p2m, layout.top_table), layout.image.paging.levels)
        xen.setvcpucontext(domid, 0, vcpu_context(layout, p2m))
        store, console = mfn_of(p2m, layout.xenstore), mfn_of(p2m, layout.console)
        seed_grants(self._kernel, domid, xen.grant_table_frame(domid), store, console)
        return Built(store, store_port, console, console_port)

    def _shared_info_frame(self, domid: DomId) -> Mfn:
        info = self._xen.getdomaininfo(domid)
        if info is None:
            raise ToolstackError(f"domain {domid} has disappeared while it was built")
        return info.shared_info_frame

    def _mask_events(self, domid: DomId, shared: Mfn) -> None:
        """A PV domain begins with events masked on every vCPU."""
        kernel = self._kernel
        va = kernel.memory.map_frames(domid, [shared])
        try:
            for vcpu in range(XEN_LEGACY_MAX_VCPUS):
                at = shared_info.offsetof("vcpu_info") + vcpu * vcpu_info.sizeof
                kernel.cpu.store(va + at + vcpu_info.offsetof("evtchn_upcall_mask"), b"\1")
        finally:
            kernel.memory.unmap(va)

    def _write(self, domid: DomId, p2m: npt.NDArray[np.uint64], pfn: Pfn, data: memoryview) -> Task[None]:
        """Put whole pages into the domain from page `pfn` on."""
        frames = p2m[pfn : pfn + (len(data) >> PAGE_SHIFT)].tolist()
        yield from write_pages(self._kernel, domid, [Mfn(mfn) for mfn in frames], data)


def mfn_of(p2m: npt.NDArray[np.uint64], pfn: Pfn) -> Mfn:
    """The machine frame of a page of the new domain's."""
    return Mfn(int(p2m[pfn]))
