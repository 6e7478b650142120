"""What Xen keeps of a PVH domain beside its memory, as a toolstack sets and gets it: parameters, its vCPUs' state."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from domains.dom0.toolstack.builder.rings import seed_grants
from domains.kernel.kernel import Kernel
from hypervisor.builder.hvm_layout import GRANTS_GFN
from hypervisor.public.domctl import (
    XEN_DOMCTL_INTERFACE_VERSION,
    XEN_DOMCTL_sethvmcontext,
    xen_domctl,
    xen_domctl_hvmcontext,
    xen_domctl_u,
)
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.hvm.hvm_op import HVMOP_get_param, HVMOP_set_param, xen_hvm_param
from hypervisor.public.memory import (
    XENMAPSPACE_grant_table,
    XENMEM_add_to_physmap,
    XENMEM_decrease_reservation,
    XENMEM_remove_from_physmap,
    xen_add_to_physmap,
    xen_memory_reservation,
    xen_remove_from_physmap,
)
from hypervisor.public.types import DomId, Mfn


class HvmState:
    """Of one domain. Every method is a hypercall or two; XenError."""

    def __init__(self, kernel: Kernel, domid: DomId) -> None:
        self._hypercalls = kernel.hypercalls
        self._kernel = kernel
        self._domid = domid

    def param(self, index: int) -> int:
        """HVM_PARAM_…'s value; 0: nobody has set it."""
        request = xen_hvm_param(domid=self._domid, index=int(index))
        self._hypercalls.hypercall_hvm_op(HVMOP_get_param, request)
        return request.value

    def set_param(self, index: int, value: int) -> None:
        """Give it a value."""
        request = xen_hvm_param(domid=self._domid, index=int(index), value=value)
        self._hypercalls.hypercall_hvm_op(HVMOP_set_param, request)

    def take_pages(self, gfns: npt.NDArray[np.uint64]) -> None:
        """Take pages from the domain, at most EXTENTS_AT_ONCE of those that it has."""
        with self._hypercalls.arguments as area:
            va = area.push(gfns.astype("<u8").tobytes())
            request = xen_memory_reservation(extent_start=va, nr_extents=len(gfns), domid=self._domid)
            done = self._hypercalls.hypercall_memory_op(XENMEM_decrease_reservation, request)
        if done != len(gfns):
            raise XenError(Errno.EINVAL, f"{done} of {len(gfns)} pages were taken")

    def set_context(self, state: bytes) -> None:
        """The state of its vCPUs, as records of Xen's."""
        with self._hypercalls.arguments as area:
            where = xen_domctl_hvmcontext(size=len(state), buffer=area.push(state))
            op = xen_domctl(
                cmd=int(XEN_DOMCTL_sethvmcontext),
                interface_version=XEN_DOMCTL_INTERFACE_VERSION,
                domain=self._domid,
                u=xen_domctl_u(hvmcontext=where),
            )
            self._hypercalls.hypercall_domctl(op)

    def seed_grants(self, store: Mfn, console: Mfn) -> None:
        """Grant Dom0 the rings. The domain's grant table is in its own memory for as long as it takes, as libxenguest has it."""
        shown = xen_add_to_physmap(domid=self._domid, space=int(XENMAPSPACE_grant_table), gpfn=GRANTS_GFN)
        self._hypercalls.hypercall_memory_op(XENMEM_add_to_physmap, shown)
        try:
            seed_grants(self._kernel, self._domid, Mfn(GRANTS_GFN), store, console)
        finally:
            hidden = xen_remove_from_physmap(domid=self._domid, gpfn=GRANTS_GFN)
            self._hypercalls.hypercall_memory_op(XENMEM_remove_from_physmap, hidden)
