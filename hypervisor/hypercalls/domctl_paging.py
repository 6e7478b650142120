"""domctl's operations on the memory that page tables beside a guest's own take (Xen arch/x86/mm/paging.c, mm/shadow/common.c).

Differences from Xen, on purpose: an HVM domain's P2M is not taken from this pool; with nested paging its size follows from the
domain's and cannot be set; with shadow paging it is fixed from the guest's first instruction on (EBUSY).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypervisor.domain.domain import Domain
from hypervisor.domain.shadow import set_shadow_frames
from hypervisor.hypercalls.call import Call, Result
from hypervisor.public.domctl import (
    XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION,
    XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION,
    XEN_DOMCTL_get_paging_mempool_size,
    XEN_DOMCTL_set_paging_mempool_size,
    XEN_DOMCTL_shadow_op,
    xen_domctl,
)
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, PAGES_PER_MIB


def _require_hvm(target: Domain) -> None:
    if not target.is_hvm:
        raise XenError(Errno.EOPNOTSUPP, f"d{target.domid} is no HVM domain")


def _require_shadowed(target: Domain) -> None:
    _require_hvm(target)
    if not target.is_shadowed:
        raise XenError(Errno.EOPNOTSUPP, f"d{target.domid} has nested paging")


def do_get_paging_mempool_size(call: Call, op: xen_domctl, target: Domain) -> Result:
    """Bytes of the pool and of the P2M together."""
    _require_hvm(target)
    tables = len(target.mem.p2m.tables) + 1 if target.mem.p2m is not None else 0
    pool = op.u.paging_mempool
    pool.size = target.mem.paging_pool + tables << PAGE_SHIFT
    op.u.paging_mempool = pool
    call.write(call.args[0], op)
    return 0


def do_set_paging_mempool_size(call: Call, op: xen_domctl, target: Domain) -> Result:
    """The shadows' pool in bytes, whole pages; too little is as much as there must be."""
    _require_shadowed(target)
    size = op.u.paging_mempool.size
    if size % PAGE_SIZE:
        raise XenError(Errno.EINVAL, f"a pool of {size} bytes")
    set_shadow_frames(call.hv, target, size >> PAGE_SHIFT)
    return 0


def do_shadow_op(call: Call, op: xen_domctl, target: Domain) -> Result:
    """The shadows' pool in MiB, rounded up. Log-dirty mode is not implemented: EOPNOTSUPP."""
    _require_shadowed(target)
    shadow = op.u.shadow_op
    if shadow.op == XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION:
        if not shadow.mb:
            raise XenError(Errno.EINVAL, f"d{target.domid} uses shadows")
        set_shadow_frames(call.hv, target, shadow.mb * PAGES_PER_MIB)
    elif shadow.op != XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION:
        raise XenError(Errno.EOPNOTSUPP, f"shadow_op {shadow.op}")
    shadow.mb = -(-target.mem.paging_pool // PAGES_PER_MIB)
    op.u.shadow_op = shadow
    call.write(call.args[0], op)
    return 0


PAGING_DOMCTLS: Final[dict[int, Callable[[Call, xen_domctl, Domain], Result]]] = {
    XEN_DOMCTL_get_paging_mempool_size: do_get_paging_mempool_size,
    XEN_DOMCTL_set_paging_mempool_size: do_set_paging_mempool_size,
    XEN_DOMCTL_shadow_op: do_shadow_op,
}
