"""Build a PVH domain that exists and is empty: memory by guest frame numbers, start info, ACPI, first vCPU.

The order is libxenguest's. Nothing here learns a machine frame: Xen finds them in the domain's P2M.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from domains.control.description import DomainConfig
from domains.dom0.toolstack.builder.hvm_state import HvmState
from domains.dom0.toolstack.builder.memory_map import set_memory_map
from domains.dom0.toolstack.builder.prepared import Prepared
from domains.dom0.toolstack.builder.rings import Built, write_pages
from domains.dom0.toolstack.xenctrl import MAXMEM_CONSTANT, XenCtrl
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.builder.hvm_contents import first_registers, hvm_pages
from hypervisor.builder.hvm_layout import CONSOLE_GFN, POPULATED, XENSTORE_GFN, HvmPlan
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.hvm.params import (
    HVM_PARAM_CONSOLE_EVTCHN,
    HVM_PARAM_CONSOLE_PFN,
    HVM_PARAM_STORE_EVTCHN,
    HVM_PARAM_STORE_PFN,
)
from hypervisor.public.memory import XENMEM_populate_physmap, xen_memory_reservation
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
        xen, state = self._xen, HvmState(self._kernel, domid)
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
            state.set_param(param, value)
        for run in prepared.runs:
            part = prepared.data[run.offset : run.offset + run.pages * PAGE_SIZE]
            yield from write_pages(self._kernel, domid, gfns_from(run.pfn, run.pages), part)
        for gfn, page in hvm_pages(plan, prepared.command_line(config.cmdline)).items():
            yield from write_pages(self._kernel, domid, [Mfn(gfn)], memoryview(page))
        state.set_context(first_registers(plan))
        state.seed_grants(Mfn(XENSTORE_GFN), Mfn(CONSOLE_GFN))
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


def gfns_from(first: int, count: int) -> list[Mfn]:
    """`count` guest frame numbers, as what names a page of a translated domain."""
    return [Mfn(gfn) for gfn in range(first, first + count)]
