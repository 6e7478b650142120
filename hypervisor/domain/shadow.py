"""How much memory a domain's shadow page tables may take. The domain's process has them, in memory of its own, from its guest's
first instruction on; the core charges the machine's quota with them, and says in the mailbox how many frames they are.

Source: Xen arch/x86/mm/shadow/common.c (shadow_enable, shadow_set_allocation, sh_min_allocation).
"""

from __future__ import annotations

from typing import Final

from hypervisor.domain.domain import Domain
from hypervisor.domain.hypervisor import Hypervisor
from hypervisor.public.errno import Errno, XenError

FIRST_SHADOW_FRAMES: Final = 1024
"""What a new domain has."""
MIN_FRAMES_PER_VCPU: Final = 128
PAGES_PER_FRAME: Final = 256
"""One frame more for so many pages of the domain."""
MAX_SHADOW_FRAMES: Final = 1 << 20


def min_shadow_frames(domain: Domain) -> int:
    """The least that a domain can work with."""
    return MIN_FRAMES_PER_VCPU * len(domain.vcpus) + domain.mem.tot_pages // PAGES_PER_FRAME


def has_started(domain: Domain) -> bool:
    """Whether its process has made its CPU, and the shadows with it: START is a process's first request."""
    return any(vcpu.run.seq > 1 or not vcpu.run.at_rest for vcpu in domain.vcpus)


def set_shadow_frames(hv: Hypervisor, domain: Domain, nr_frames: int) -> None:
    """Give the domain's shadows so many frames, or the least that there must be.

    XenError: ENOMEM (the quota), EBUSY (it has started), EINVAL (more than a domain can have).
    """
    if has_started(domain):
        raise XenError(Errno.EBUSY, f"the shadows of d{domain.domid} are in use")
    if nr_frames > MAX_SHADOW_FRAMES:
        raise XenError(Errno.EINVAL, f"{nr_frames} frames for shadows")
    nr_frames = max(nr_frames, min_shadow_frames(domain))
    hv.mmu.allocator.set_paging_pool(domain.mem, nr_frames)
    domain.mailbox.set_shadow_frames(nr_frames)
