"""Build a PVH domain that exists and is empty: memory by guest frame numbers, start info, ACPI, first vCPU.

The order is libxenguest's. Nothing here learns a machine frame: Xen finds them in the domain's P2M.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from domains.control.description import DomainConfig
from domains.dom0.toolstack.builder.memory_map import set_memory_map
from domains.dom0.toolstack.builder.prepared import Prepared
from domains.dom0.toolstack.builder.rings import Built, seed_grants, write_pages
from domains.dom0.toolstack.xenctrl import MAXMEM_CONSTANT, XenCtrl
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.builder.hvm_contents import first_registers, hvm_pages
from hypervisor.builder.hvm_layout import CONSOLE_GFN, GRANTS_GFN, POPULATED, XENSTORE_GFN, HvmPlan
from hypervisor.public.domctl import (
    XEN_DOMCTL_INTERFACE_VERSION,
    XEN_DOMCTL_sethvmcontext,
    xen_domctl,
    xen_domctl_hvmcontext,
    xen_domctl_u,
)
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.hvm.hvm_op import HVMOP_set_param, xen_hvm_param
from hypervisor.public.hvm.params import (
    HVM_PARAM_CONSOLE_EVTCHN,
    HVM_PARAM_CONSOLE_PFN,
    HVM_PARAM_STORE_EVTCHN,
    HVM_PARAM_STORE_PFN,
)
from hypervisor.public.memory import (
    XENMAPSPACE_grant_table,
    XENMEM_add_to_physmap,
    XENMEM_populate_physmap,
    XENMEM_remove_from_physmap,
    xen_add_to_physmap,
    xen_memory_reservation,
    xen_remove_from_physmap,
)
from hypervisor.public.types import PAGE_SIZE, DomId, Mfn

DOM0: Final = DomId(0)


class HvmBuilder:
    """Builds one domain after another."""

    def __init__(self, kernel: Kernel, xen: XenCtrl) -> None:
        self._kernel = kernel
        self._hypercalls = kernel.hypercalls
        self._xen = xen

    def build(self, domid: DomId, config: DomainConfig, prepared: Prepared, plan: HvmPlan) -> Task[Built]:
        """Fill the domain `domid`, which has just been created. Raises XenError."""
        xen = self._xen
        xen.max_vcpus(domid, config.maxvcpus)
        xen.max_mem(domid, config.maxmem * 1024 + MAXMEM_CONSTANT)
        if config.is_shadowed:
            xen.set_paging_mempool_size(domid, config.shadow_mib << 20)
        yield from xen.populate_physmap(domid, plan.nr_pages)
        self._populate(domid, POPULATED)
        set_memory_map(self._hypercalls, domid, plan.memory_map())
        store_port, console_port = xen.alloc_unbound(domid, DOM0), xen.alloc_unbound(domid, DOM0)
        for param, value in (
            (HVM_PARAM_STORE_PFN, XENSTORE_GFN),
            (HVM_PARAM_STORE_EVTCHN, store_port),
            (HVM_PARAM_CONSOLE_PFN, CONSOLE_GFN),
            (HVM_PARAM_CONSOLE_EVTCHN, console_port),
        ):
            request = xen_hvm_param(domid=domid, index=int(param), value=value)
            self._hypercalls.hypercall_hvm_op(HVMOP_set_param, request)
        for run in prepared.runs:
            part = prepared.data[run.offset : run.offset + run.pages * PAGE_SIZE]
            yield from write_pages(self._kernel, domid, gfns_from(run.pfn, run.pages), part)
        for gfn, page in hvm_pages(plan, prepared.command_line(config.cmdline)).items():
            yield from write_pages(self._kernel, domid, [Mfn(gfn)], memoryview(page))
        self._sethvmcontext(domid, first_registers(plan))
        self._seed_grants(domid)
        yield NEXT_TURN
        return Built(Mfn(XENSTORE_GFN), store_port, Mfn(CONSOLE_GFN), console_port)

    def _populate(self, domid: DomId, gfns: Sequence[int]) -> None:
        """One page at each of a few guest frames. XenError(ENOMEM)."""
        with self._hypercalls.arguments as area:
            va = area.push(np.array(gfns, "<u8").tobytes())
            request = xen_memory_reservation(extent_start=va, nr_extents=len(gfns), domid=domid)
            done = self._hypercalls.hypercall_memory_op(XENMEM_populate_physmap, request)
        if done != len(gfns):
            raise XenError(Errno.ENOMEM, f"{done} of {len(gfns)} special pages")

    def _sethvmcontext(self, domid: DomId, state: bytes) -> None:
        with self._hypercalls.arguments as area:
            where = xen_domctl_hvmcontext(size=len(state), buffer=area.push(state))
            op = xen_domctl(
                cmd=int(XEN_DOMCTL_sethvmcontext),
                interface_version=XEN_DOMCTL_INTERFACE_VERSION,
                domain=domid,
                u=xen_domctl_u(hvmcontext=where),
            )
            self._hypercalls.hypercall_domctl(op)

    def _seed_grants(self, domid: DomId) -> None:
        """The domain's grant table is shown in its own memory for as long as it takes, as libxenguest does it."""
        shown = xen_add_to_physmap(domid=domid, space=int(XENMAPSPACE_grant_table), gpfn=GRANTS_GFN)
        self._hypercalls.hypercall_memory_op(XENMEM_add_to_physmap, shown)
        try:
            seed_grants(self._kernel, domid, Mfn(GRANTS_GFN), Mfn(XENSTORE_GFN), Mfn(CONSOLE_GFN))
        finally:
            hidden = xen_remove_from_physmap(domid=domid, gpfn=GRANTS_GFN)
            self._hypercalls.hypercall_memory_op(XENMEM_remove_from_physmap, hidden)


def gfns_from(first: int, count: int) -> list[Mfn]:
    """`count` guest frame numbers, as what names a page of a translated domain."""
    return [Mfn(gfn) for gfn in range(first, first + count)]
