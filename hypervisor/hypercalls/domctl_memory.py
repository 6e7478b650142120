"""domctl's operations on a domain's memory: its limit, and what its frames are (Xen arch/x86/domctl.c)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypervisor.domain.domain import Domain
from hypervisor.hypercalls.call import Call, Result
from hypervisor.machine.frame_types import PGC, PGT
from hypervisor.public.domctl import (
    XEN_DOMCTL_PFINFO_L1TAB,
    XEN_DOMCTL_PFINFO_L2TAB,
    XEN_DOMCTL_PFINFO_L3TAB,
    XEN_DOMCTL_PFINFO_L4TAB,
    XEN_DOMCTL_PFINFO_LPINTAB,
    XEN_DOMCTL_PFINFO_XTAB,
    XEN_DOMCTL_getpageframeinfo3,
    XEN_DOMCTL_max_mem,
    xen_domctl,
)
from hypervisor.public.errno import Errno, XenError

MAX_FRAMES_A_CALL: Final = 1024
_TABLE_INFO: Final = {
    PGT.l1_page_table: int(XEN_DOMCTL_PFINFO_L1TAB),
    PGT.l2_page_table: int(XEN_DOMCTL_PFINFO_L2TAB),
    PGT.pae_xen_l2_page_table: int(XEN_DOMCTL_PFINFO_L2TAB),
    PGT.l3_page_table: int(XEN_DOMCTL_PFINFO_L3TAB),
    PGT.l4_page_table: int(XEN_DOMCTL_PFINFO_L4TAB),
}


def do_max_mem(_call: Call, op: xen_domctl, target: Domain) -> Result:
    """The most pages it may have (KiB); a limit below what it has stops it from taking more."""
    target.mem.max_pages = min(op.u.max_mem.max_memkb >> 2, 0x7FFF_FFFF)
    return 0


def do_getpageframeinfo3(call: Call, op: xen_domctl, target: Domain) -> Result:
    """What each of the given frames is: table of which level, pinned or not, or none of the domain's."""
    info = op.u.getpageframeinfo3
    if info.num > MAX_FRAMES_A_CALL:
        raise XenError(Errno.E2BIG, f"{info.num} frames in one call")
    answers = [_frame_info(call, target, mfn) for mfn in call.read_words(info.array, info.num)]
    call.write_words(info.array, answers)
    return 0


def _frame_info(call: Call, target: Domain, mfn: int) -> int:
    frames = call.hv.frames
    if mfn >= call.hv.memory.nr_frames or frames.owner[mfn] != target.domid:
        return int(XEN_DOMCTL_PFINFO_XTAB)
    info = _TABLE_INFO.get(PGT(frames.type[mfn]), 0)
    if info and frames.flags[mfn] & PGC.PINNED:
        info |= int(XEN_DOMCTL_PFINFO_LPINTAB)
    return info


MEMORY_OPS: Final[dict[int, Callable[[Call, xen_domctl, Domain], Result]]] = {
    XEN_DOMCTL_max_mem: do_max_mem,
    XEN_DOMCTL_getpageframeinfo3: do_getpageframeinfo3,
}
