"""domctl's operations on a domain's memory: its limit, and what its frames are (Xen arch/x86/domctl.c)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from hypervisor.domain.domain import Domain
from hypervisor.hypercalls.call import Call, Result
from hypervisor.machine.frame_types import LEVELS, PGT, PINNED, XEN
from hypervisor.mm.frame_table import FrameTable
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
Words = npt.NDArray[np.uint64]


def _infos_by_type() -> Words:
    infos = np.zeros(max(PGT) + 1, np.uint64)
    for level, info in enumerate(
        (
            XEN_DOMCTL_PFINFO_L1TAB,
            XEN_DOMCTL_PFINFO_L2TAB,
            XEN_DOMCTL_PFINFO_L3TAB,
            XEN_DOMCTL_PFINFO_L4TAB,
        ),
        1,
    ):
        infos[[pgt for pgt in PGT if LEVELS[pgt] == level]] = int(info)
    return infos


INFO_BY_TYPE: Final = _infos_by_type()


def do_max_mem(_call: Call, op: xen_domctl, target: Domain) -> Result:
    """The most pages it may have (KiB); a limit below what it has stops it from taking more."""
    target.mem.max_pages = min(op.u.max_mem.max_memkb >> 2, 0x7FFF_FFFF)
    return 0


def do_getpageframeinfo3(call: Call, op: xen_domctl, target: Domain) -> Result:
    """What each of the given frames is: table of which level, pinned or not, or none of the domain's."""
    info = op.u.getpageframeinfo3
    if info.num > MAX_FRAMES_A_CALL:
        raise XenError(Errno.E2BIG, f"{info.num} frames in one call")
    mfns = np.array(call.read_words(info.array, info.num), np.uint64)
    call.write_words(info.array, _frame_infos(call.hv.frames, mfns, target.domid))
    return 0


def _frame_infos(frames: FrameTable, mfns: Words, domid: int) -> Words:
    """XEN_DOMCTL_PFINFO_… of each. A frame that is used as a table no more is none, whatever its type word says; one
    of Xen's own, such as shared_info, is not the domain's.
    """
    infos = np.full(len(mfns), int(XEN_DOMCTL_PFINFO_XTAB), np.uint64)
    there = np.flatnonzero(mfns < np.uint64(frames.top))
    there = there[(frames.owner_np[mfns[there]] == domid) & (frames.flags_np[mfns[there]] & XEN == 0)]
    own = mfns[there]
    tables = np.where(frames.tcount_np[own] != 0, INFO_BY_TYPE[frames.type_np[own]], np.uint64(0))
    pinned = (frames.flags_np[own] & PINNED != 0) & (tables != 0)
    infos[there] = tables | np.where(pinned, np.uint64(int(XEN_DOMCTL_PFINFO_LPINTAB)), np.uint64(0))
    return infos


MEMORY_OPS: Final[dict[int, Callable[[Call, xen_domctl, Domain], Result]]] = {
    XEN_DOMCTL_max_mem: do_max_mem,
    XEN_DOMCTL_getpageframeinfo3: do_getpageframeinfo3,
}
