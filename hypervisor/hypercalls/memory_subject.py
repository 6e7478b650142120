"""Whose memory a memory_op is about (M5)."""

from __future__ import annotations

from hypervisor.domain.domain import Domain
from hypervisor.hypercalls.call import Call
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.xen import DOMID_SELF


def subject(call: Call, domid: int) -> Domain:
    """The domain named, DOMID_SELF and one's own number included. XenError: EPERM, ESRCH.

    A guest that has no privilege gets EPERM for every other number: it learns nothing of who exists (M5).
    """
    if domid != DOMID_SELF and not call.domain.mem.controls(domid):
        raise XenError(Errno.EPERM, f"M5: d{call.domain.domid} asks about domain {domid}")
    return call.target(domid)
