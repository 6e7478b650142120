"""What Xen is asked for a core dump: the registers of a paused domain's vCPUs, and which frames are the domain's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from domains.dom0.toolstack.xenctrl import XenCtrl
from domains.kernel.kernel import Kernel
from hypervisor.public.arch_x86.xen import vcpu_guest_context
from hypervisor.public.domctl import (
    XEN_DOMCTL_PFINFO_XTAB,
    Domctl,
    xen_domctl_getpageframeinfo3,
    xen_domctl_hvmcontext,
    xen_domctl_u,
    xen_domctl_vcpucontext,
)
from hypervisor.public.types import DomId


def getvcpucontext(kernel: Kernel, xen: XenCtrl, domid: DomId, vcpu: int) -> bytes:
    """The registers of a vCPU of a PV domain: a vcpu_guest_context in the layout of its width, and zeros behind it.

    XenError: there is no such vCPU (EINVAL), it was never brought up (ENODATA).
    """
    with kernel.hypercalls.arguments as area:
        va = area.push(bytes(vcpu_guest_context.sizeof))
        where = xen_domctl_vcpucontext(vcpu=vcpu, ctxt=va)
        xen.domctl(Domctl.XEN_DOMCTL_getvcpucontext, domid, xen_domctl_u(vcpucontext=where))
        return kernel.cpu.load(va, vcpu_guest_context.sizeof)


def gethvmcontext(kernel: Kernel, xen: XenCtrl, domid: DomId) -> bytes:
    """The records with the registers of an HVM domain's vCPUs."""
    size = xen.domctl(Domctl.XEN_DOMCTL_gethvmcontext, domid).u.hvmcontext.size
    with kernel.hypercalls.arguments as area:
        buffer = area.reserve(size)
        where = xen_domctl_hvmcontext(size=size, buffer=buffer)
        op = xen.domctl(Domctl.XEN_DOMCTL_gethvmcontext, domid, xen_domctl_u(hvmcontext=where))
        return kernel.cpu.load(buffer, min(op.u.hvmcontext.size, size))


def owned(
    kernel: Kernel, xen: XenCtrl, domid: DomId, frames: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Those of these machine frames, at most 512, that are the domain's."""
    with kernel.hypercalls.arguments as area:
        array = area.push(frames.astype("<u8").tobytes())
        info = xen_domctl_getpageframeinfo3(num=len(frames), array=array)
        xen.domctl(Domctl.XEN_DOMCTL_getpageframeinfo3, domid, xen_domctl_u(getpageframeinfo3=info))
        answers = np.frombuffer(kernel.cpu.load(array, len(frames) * 8), "<u8")
    found: npt.NDArray[np.uint64] = frames[answers != np.uint64(int(XEN_DOMCTL_PFINFO_XTAB))]
    return found
