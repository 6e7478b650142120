"""domctl on what CPU, clock and memory node a domain sees (Xen arch/x86/domctl.c, arch/x86/time.c, common/domain.c)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypervisor.domain.domain import Domain
from hypervisor.hypercalls.bitmaps import read_bitmap, write_bitmap
from hypervisor.hypercalls.call import Call, Result
from hypervisor.hypercalls.cpu_policy import do_get_domain_policy, do_set_domain_policy
from hypervisor.machine.cpuid import TSC_KHZ
from hypervisor.public.domctl import (
    XEN_DOMCTL_get_cpu_policy,
    XEN_DOMCTL_getnodeaffinity,
    XEN_DOMCTL_gettscinfo,
    XEN_DOMCTL_set_cpu_policy,
    XEN_DOMCTL_setnodeaffinity,
    XEN_DOMCTL_settscinfo,
    xen_domctl,
)
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import U64

NODES: Final = 1
"""The machine is one NUMA node."""
TSC_MODE_DEFAULT: Final = 0
TSC_MODE_ALWAYS_EMULATE: Final = 1
TSC_MODE_NEVER_EMULATE: Final = 2


def do_setnodeaffinity(call: Call, op: xen_domctl, _target: Domain) -> Result:
    """The only node, which is what every domain has. EINVAL: that is not among those given."""
    if not read_bitmap(call, op.u.nodeaffinity.nodemap, NODES):
        raise XenError(Errno.EINVAL, "the machine has node 0 alone")
    return 0


def do_getnodeaffinity(call: Call, op: xen_domctl, _target: Domain) -> Result:
    """Node 0."""
    write_bitmap(call, op.u.nodeaffinity.nodemap, (1 << NODES) - 1)
    return 0


def do_settscinfo(call: Call, op: xen_domctl, target: Domain) -> Result:
    """The mode is kept and told; in all modes the TSC counts nanoseconds, as the emulated CPU does, and goes on from the elapsed
    time, if that is given and the TSC may be emulated. EINVAL: the caller itself, or no such mode; EOPNOTSUPP: another rate, or
    the domain runs already, and its process has taken its clock.
    """
    info = op.u.tsc_info
    if target is call.domain:
        raise XenError(Errno.EINVAL, "a domain cannot set its own TSC")
    if info.tsc_mode not in (TSC_MODE_DEFAULT, TSC_MODE_ALWAYS_EMULATE, TSC_MODE_NEVER_EMULATE):
        raise XenError(Errno.EINVAL, f"TSC mode {info.tsc_mode}")
    if info.tsc_mode != TSC_MODE_NEVER_EMULATE and info.gtsc_khz not in (0, TSC_KHZ):
        raise XenError(Errno.EOPNOTSUPP, f"a TSC of {info.gtsc_khz} kHz")
    if info.tsc_mode != TSC_MODE_NEVER_EMULATE and info.elapsed_nsec:
        if any(vcpu.run.has_run for vcpu in target.vcpus):
            raise XenError(Errno.EOPNOTSUPP, f"d{target.domid} runs already")
        target.mailbox.set_tsc_offset(_signed(info.elapsed_nsec - _host_tsc(call)))
    target.tsc_mode = info.tsc_mode
    target.tsc_incarnation = info.incarnation + 1 & 0xFFFF_FFFF
    return 0


def do_gettscinfo(call: Call, op: xen_domctl, target: Domain) -> Result:
    """Mode, rate and what the TSC reads, ns. EINVAL: the caller itself."""
    if target is call.domain:
        raise XenError(Errno.EINVAL, "a domain cannot ask for its own TSC")
    info = op.u.tsc_info
    never = target.tsc_mode == TSC_MODE_NEVER_EMULATE
    info.tsc_mode, info.incarnation = target.tsc_mode, target.tsc_incarnation
    info.gtsc_khz = 0 if never else TSC_KHZ
    info.elapsed_nsec = 0 if never else _host_tsc(call) + target.mailbox.tsc_offset & U64
    op.u.tsc_info = info
    call.write(call.args[0], op)
    return 0


def _host_tsc(call: Call) -> int:
    """What the TSC of a domain without an offset reads now (domains/cpu/clock.py)."""
    return call.hv.clock.boot_ns + call.hv.now()


def _signed(offset: int) -> int:
    """The same modulo 2^64, as a number with a sign."""
    return (offset + (1 << 63)) % (1 << 64) - (1 << 63)


CPU_DOMCTLS: Final[dict[int, Callable[[Call, xen_domctl, Domain], Result]]] = {
    XEN_DOMCTL_setnodeaffinity: do_setnodeaffinity,
    XEN_DOMCTL_getnodeaffinity: do_getnodeaffinity,
    XEN_DOMCTL_settscinfo: do_settscinfo,
    XEN_DOMCTL_gettscinfo: do_gettscinfo,
    XEN_DOMCTL_get_cpu_policy: do_get_domain_policy,
    XEN_DOMCTL_set_cpu_policy: do_set_domain_policy,
}
