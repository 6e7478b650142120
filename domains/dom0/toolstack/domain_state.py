"""What Xen is asked of a PV domain's vCPUs, its clock and its CPU when it is saved, and told when it is restored."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from domains.dom0.toolstack.stream.pv_records import TscInfo
from domains.dom0.toolstack.xenctrl import XenCtrl
from domains.kernel.kernel import Kernel
from hypervisor.public.arch_x86.xen import xen_cpuid_leaf, xen_msr_entry
from hypervisor.public.domctl import (
    XEN_DOMCTL_INTERFACE_VERSION,
    Domctl,
    xen_domctl,
    xen_domctl_cpu_policy,
    xen_domctl_getpageframeinfo3,
    xen_domctl_u,
)
from hypervisor.public.domctl_vcpu import (
    xen_domctl_ext_vcpucontext,
    xen_domctl_getvcpuinfo,
    xen_domctl_tsc_info,
    xen_domctl_vcpu_msr,
    xen_domctl_vcpu_msrs,
    xen_domctl_vcpuextstate,
)
from hypervisor.public.errno import XenError
from hypervisor.public.types import DomId

Words = npt.NDArray[np.uint64]
FRAMES_AT_ONCE: Final = 512
"""What getpageframeinfo3 is asked about in one call: as many numbers as fit into a page."""
NO_LEAF: Final = 0xFFFF_FFFF


class DomainState:
    """Of one domain. Every method is a hypercall or two; XenError."""

    def __init__(self, kernel: Kernel, xen: XenCtrl, domid: DomId) -> None:
        self._kernel = kernel
        self._xen = xen
        self._domid = domid

    # --- the vCPUs ---------------------------------------------------------------------------------

    def is_online(self, vcpu: int) -> bool:
        """Whether the guest has brought it up."""
        arguments = xen_domctl_u(getvcpuinfo=xen_domctl_getvcpuinfo(vcpu=vcpu))
        op = self._xen.domctl(Domctl.XEN_DOMCTL_getvcpuinfo, self._domid, arguments)
        return bool(op.u.getvcpuinfo.online)

    def extended(self, vcpu: int) -> bytes:
        """X86_PV_VCPU_EXTENDED's content: a xen_domctl_ext_vcpucontext."""
        arguments = xen_domctl_u(ext_vcpucontext=xen_domctl_ext_vcpucontext(vcpu=vcpu))
        op = self._xen.domctl(Domctl.XEN_DOMCTL_get_ext_vcpucontext, self._domid, arguments)
        told: xen_domctl_ext_vcpucontext = op.u.ext_vcpucontext
        return told.pack()[: told.size]

    def set_extended(self, vcpu: int, content: bytes) -> None:
        """The other way round."""
        size = xen_domctl_ext_vcpucontext.sizeof
        given = xen_domctl_ext_vcpucontext.unpack(content[:size].ljust(size, b"\0"))
        given.vcpu, given.size = vcpu, min(len(content), size)
        arguments = xen_domctl_u(ext_vcpucontext=given)
        self._xen.domctl(Domctl.XEN_DOMCTL_set_ext_vcpucontext, self._domid, arguments)

    def xsave(self, vcpu: int) -> bytes:
        """X86_PV_VCPU_XSAVE's content; nothing without XSAVE."""
        asked = xen_domctl_vcpuextstate(vcpu=vcpu)
        told = self._vcpuextstate(Domctl.XEN_DOMCTL_getvcpuextstate, asked)
        if not told.xfeature_mask or not told.size:
            return b""
        with self._kernel.hypercalls.arguments as area:
            asked.size, asked.buffer = told.size, area.reserve(told.size)
            told = self._vcpuextstate(Domctl.XEN_DOMCTL_getvcpuextstate, asked)
            return self._kernel.cpu.load(asked.buffer, told.size)

    def set_xsave(self, vcpu: int, content: bytes) -> None:
        """The other way round."""
        with self._kernel.hypercalls.arguments as area:
            given = xen_domctl_vcpuextstate(vcpu=vcpu, size=len(content), buffer=area.push(content))
            self._vcpuextstate(Domctl.XEN_DOMCTL_setvcpuextstate, given)

    def _vcpuextstate(self, cmd: Domctl, asked: xen_domctl_vcpuextstate) -> xen_domctl_vcpuextstate:
        told: xen_domctl_vcpuextstate = self._xen.domctl(
            cmd, self._domid, xen_domctl_u(vcpuextstate=asked)
        ).u.vcpuextstate
        return told

    def msrs(self, vcpu: int) -> bytes:
        """X86_PV_VCPU_MSRS' content: an array of xen_domctl_vcpu_msr, which may be empty."""
        asked = xen_domctl_vcpu_msrs(vcpu=vcpu)
        count = self._vcpu_msrs(Domctl.XEN_DOMCTL_get_vcpu_msrs, asked)
        if not count:
            return b""
        with self._kernel.hypercalls.arguments as area:
            asked.msr_count = count
            asked.msrs = area.reserve(count * xen_domctl_vcpu_msr.sizeof)
            count = self._vcpu_msrs(Domctl.XEN_DOMCTL_get_vcpu_msrs, asked)
            return self._kernel.cpu.load(asked.msrs, count * xen_domctl_vcpu_msr.sizeof)

    def set_msrs(self, vcpu: int, content: bytes) -> None:
        """The other way round."""
        with self._kernel.hypercalls.arguments as area:
            count = len(content) // xen_domctl_vcpu_msr.sizeof
            given = xen_domctl_vcpu_msrs(vcpu=vcpu, msr_count=count, msrs=area.push(content))
            self._vcpu_msrs(Domctl.XEN_DOMCTL_set_vcpu_msrs, given)

    def _vcpu_msrs(self, cmd: Domctl, asked: xen_domctl_vcpu_msrs) -> int:
        told = self._xen.domctl(cmd, self._domid, xen_domctl_u(vcpu_msrs=asked)).u.vcpu_msrs
        return int(told.msr_count)

    # --- the domain --------------------------------------------------------------------------------

    def tsc(self) -> TscInfo:
        """Its clock."""
        told = self._xen.domctl(Domctl.XEN_DOMCTL_gettscinfo, self._domid).u.tsc_info
        return TscInfo(told.tsc_mode, told.gtsc_khz, told.elapsed_nsec, told.incarnation)

    def set_tsc(self, tsc: TscInfo) -> None:
        """Have it go on from there. It must not have run yet."""
        mode, khz, nsec, incarnation = tsc
        given = xen_domctl_tsc_info(tsc_mode=mode, gtsc_khz=khz, elapsed_nsec=nsec, incarnation=incarnation)
        self._xen.domctl(Domctl.XEN_DOMCTL_settscinfo, self._domid, xen_domctl_u(tsc_info=given))

    def policy(self) -> tuple[bytes, bytes]:
        """X86_CPUID_POLICY's and X86_MSR_POLICY's bodies: arrays of xen_cpuid_leaf and xen_msr_entry."""
        sizes = self._get_policy(xen_domctl_cpu_policy())
        load = self._kernel.cpu.load
        with self._kernel.hypercalls.arguments as area:
            leaves = area.reserve(sizes.nr_leaves * xen_cpuid_leaf.sizeof)
            msrs = area.reserve(sizes.nr_msrs * xen_msr_entry.sizeof)
            asked = xen_domctl_cpu_policy(
                nr_leaves=sizes.nr_leaves, nr_msrs=sizes.nr_msrs, leaves=leaves, msrs=msrs
            )
            told = self._get_policy(asked)
            return (
                load(leaves, told.nr_leaves * xen_cpuid_leaf.sizeof),
                load(msrs, told.nr_msrs * xen_msr_entry.sizeof),
            )

    def set_policy(self, leaves: bytes, msrs: bytes) -> str | None:
        """Have the domain see this CPU. What it is that this machine's CPU has not so; None: it is as it should be."""
        with self._kernel.hypercalls.arguments as area:
            given = xen_domctl_cpu_policy(
                nr_leaves=len(leaves) // xen_cpuid_leaf.sizeof,
                nr_msrs=len(msrs) // xen_msr_entry.sizeof,
                leaves=area.push(leaves),
                msrs=area.push(msrs),
                err_leaf=NO_LEAF,
                err_subleaf=NO_LEAF,
                err_msr=NO_LEAF,
            )
            op = xen_domctl(
                cmd=int(Domctl.XEN_DOMCTL_set_cpu_policy),
                interface_version=XEN_DOMCTL_INTERFACE_VERSION,
                domain=self._domid,
                u=xen_domctl_u(cpu_policy=given),
            )
            try:
                self._kernel.hypercalls.hypercall_domctl(op)
            except XenError as error:
                return _different(op.u.cpu_policy) or error.errno.name
        return None

    def _get_policy(self, asked: xen_domctl_cpu_policy) -> xen_domctl_cpu_policy:
        arguments = xen_domctl_u(cpu_policy=asked)
        op = self._xen.domctl(Domctl.XEN_DOMCTL_get_cpu_policy, self._domid, arguments)
        told: xen_domctl_cpu_policy = op.u.cpu_policy
        return told

    def types(self, frames: Words) -> Words:
        """XEN_DOMCTL_PFINFO_… of at most FRAMES_AT_ONCE machine frames, shifted to 0 to 15."""
        with self._kernel.hypercalls.arguments as area:
            array = area.push(frames.astype("<u8").tobytes())
            info = xen_domctl_getpageframeinfo3(num=len(frames), array=array)
            arguments = xen_domctl_u(getpageframeinfo3=info)
            self._xen.domctl(Domctl.XEN_DOMCTL_getpageframeinfo3, self._domid, arguments)
            answers = np.frombuffer(self._kernel.cpu.load(array, len(frames) * 8), "<u8")
        types: Words = answers >> np.uint64(28)
        return types


def _different(asked: xen_domctl_cpu_policy) -> str | None:
    if asked.err_leaf != NO_LEAF:
        subleaf = "" if asked.err_subleaf == NO_LEAF else f", subleaf {asked.err_subleaf:#x}"
        return f"CPUID leaf {asked.err_leaf:#x}{subleaf}"
    return f"MSR {asked.err_msr:#x}" if asked.err_msr != NO_LEAF else None
