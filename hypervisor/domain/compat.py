"""A domain that has no memory yet becomes a 32-bit PV guest (Xen arch/x86/pv/domain.c, switch_compat)."""

from __future__ import annotations

from typing import Final

from hypervisor.domain.domain import Domain, Kind
from hypervisor.domain.hypervisor import Hypervisor
from hypervisor.domain.lifecycle import write_shared_info
from hypervisor.public.abi import COMPAT
from hypervisor.public.errno import Errno, XenError
from hypervisor.wire.mailbox import Engine

FRAMES_BELOW_4G: Final = 1 << 20


def switch_compat(hv: Hypervisor, domain: Domain) -> None:
    """XenError: EACCES (it has memory, or is not PV), EOPNOTSUPP (a Python guest), ENOMEM."""
    if domain.is_hvm or domain.mem.tot_pages:
        raise XenError(Errno.EACCES, f"d{domain.domid} has memory already, or is no PV guest")
    if domain.mailbox.engine is not Engine.X86_64:
        raise XenError(Errno.EOPNOTSUPP, f"d{domain.domid}: a Python guest has 64-bit addresses")
    if domain.shared_info >= FRAMES_BELOW_4G:  # its address is a 32-bit number in start info
        raise XenError(Errno.ENOMEM, f"d{domain.domid}: no frame below 4 GiB is left for shared_info")
    hv.mmu.switch_to_compat(domain.mem)
    domain.kind, domain.abi = Kind.PV32, COMPAT
    domain.mailbox.set_engine(Engine.X86_32)
    write_shared_info(hv, domain)
