"""Hypercalls whose answer cannot change while the domain lives: given here, at once, instead of by the core.

Linux asks for the version each time it unmasks upcalls with one pending (any hypercall would do), and about each of the
8192 vCPUs that it was built for. What the answers depend on is in this process: a constant, and a word that the core wrote once.
"""

from collections.abc import Callable
from typing import Final

from domains.cpu.x86.pv.vcpu import X86Vcpu
from hypervisor.machine.cpuid import XEN_VERSION
from hypervisor.public.errno import Errno
from hypervisor.public.version import XENVER_version
from hypervisor.public.xen import Hypercall

VERSION: Final = int(XENVER_version)
NO_SUCH_VCPU: Final = -int(Errno.ENOENT)


def xen_version(_v: X86Vcpu, args: tuple[int, ...]) -> int | None:
    """Xen's version; None: another question, which the core answers."""
    return XEN_VERSION if args[0] == VERSION else None


def vcpu_op(v: X86Vcpu, args: tuple[int, ...]) -> int | None:
    """Whatever is asked about a vCPU that there is not."""
    return NO_SUCH_VCPU if args[1] >= v.nr_vcpus else None


CONSTANT_ANSWERS: Final[dict[int, Callable[[X86Vcpu, tuple[int, ...]], int | None]]] = {
    Hypercall.xen_version: xen_version,
    Hypercall.vcpu_op: vcpu_op,
}
"""By number; None: the core must be asked."""
