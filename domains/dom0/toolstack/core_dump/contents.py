"""What a core dump has of a paused domain: which frames it owns, its vCPUs' registers, its shared_info, and what Xen this is.

A domain's frames are found in the M2P, which Xen shows to every guest: where there is memory at all its numbers are looked
through, and Xen is asked of each whether the frame is the domain's. What a PV guest calls its frames there is its own word.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
import numpy.typing as npt

from domains.dom0.toolstack.core_dump.asking import gethvmcontext, getvcpucontext, owned
from domains.dom0.toolstack.xenctrl import XenCtrl
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.machine.memory import PART_SHIFT
from hypervisor.public.arch_x86.hvm.save import HVM_SAVE_CODE_CPU, hvm_hw_cpu
from hypervisor.public.arch_x86.xen import vcpu_guest_context
from hypervisor.public.arch_x86.xen_x86_64 import MACH2PHYS_VIRT_START, cpu_user_regs
from hypervisor.public.errno import XenError
from hypervisor.public.hvm.save import hvm_save_descriptor
from hypervisor.public.types import PAGE_SIZE, DomId, Mfn
from hypervisor.public.version import (
    XEN_CAPABILITIES_INFO_LEN,
    XEN_CHANGESET_INFO_LEN,
    XEN_EXTRAVERSION_LEN,
    XENVER_capabilities,
    XENVER_changeset,
    XENVER_compile_info,
    XENVER_extraversion,
    XENVER_pagesize,
    XENVER_platform_parameters,
    XENVER_version,
    xen_compile_info,
    xen_platform_parameters,
)

FRAMES_AT_ONCE: Final = 512
"""That Xen is asked about in one turn."""
MOST_PFN: Final = 1 << 40
"""No guest's frame has a higher number: the rest of the M2P's entries say that there is none."""

Words = npt.NDArray[np.uint64]


def frames_of(kernel: Kernel, xen: XenCtrl, domid: DomId) -> Task[tuple[Words, Words]]:
    """The domain's frames by their own numbers, and their numbers in the machine; in the machine's order."""
    pfns = [np.empty(0, np.uint64)]
    mfns = [np.empty(0, np.uint64)]
    for part in sorted(kernel.cpu.gate.memory.parts):
        first = part << PART_SHIFT
        raw = kernel.cpu.load(MACH2PHYS_VIRT_START + first * 8, 8 << PART_SHIFT)
        entries = np.frombuffer(raw, "<u8")
        named = np.flatnonzero(entries < MOST_PFN)
        for at in range(0, len(named), FRAMES_AT_ONCE):
            some = named[at : at + FRAMES_AT_ONCE].astype(np.uint64) + np.uint64(first)
            mfns.append(owned(kernel, xen, domid, some))
            pfns.append(entries[(mfns[-1] - np.uint64(first)).astype(np.intp)])
            yield NEXT_TURN
    return np.concatenate(pfns), np.concatenate(mfns)


def contexts_of(
    kernel: Kernel, xen: XenCtrl, domid: DomId, vcpus: int, *, translated: bool
) -> Task[list[bytes]]:
    """A vcpu_guest_context for each vCPU that has run; one of zeros if there is none."""
    contexts = []
    if translated:
        contexts = [guest_context(cpu) for cpu in hvm_cpus(gethvmcontext(kernel, xen, domid))]
    else:
        for vcpu in range(vcpus):
            try:
                contexts.append(getvcpucontext(kernel, xen, domid, vcpu))
            except XenError:  # it was never brought up
                continue
            yield NEXT_TURN
    return contexts or [bytes(vcpu_guest_context.sizeof)]


def hvm_cpus(raw: bytes) -> list[hvm_hw_cpu]:
    """The vCPUs' registers in an HVM domain's saved state."""
    found, at = [], 0
    while at + hvm_save_descriptor.sizeof <= len(raw):
        head = hvm_save_descriptor.unpack(raw, at)
        at += hvm_save_descriptor.sizeof
        if head.typecode == HVM_SAVE_CODE_CPU:
            found.append(hvm_hw_cpu.unpack(raw, at))
        at += head.length
    return found


def guest_context(cpu: hvm_hw_cpu) -> bytes:
    """An HVM vCPU's registers where a PV vCPU's are (Xen arch_get_info_guest)."""
    same = ("rax", "rbx", "rcx", "rdx", "rbp", "rsi", "rdi", "rsp", "rip", "rflags")
    registers = {name: getattr(cpu, name) for name in (*same, *(f"r{n}" for n in range(8, 16)))}
    selectors = {name: getattr(cpu, f"{name}_sel") & 0xFFFF for name in ("cs", "ds", "es", "fs", "gs", "ss")}
    return vcpu_guest_context(
        user_regs=cpu_user_regs(**registers, **selectors),
        ctrlreg=(cpu.cr0, 0, cpu.cr2, cpu.cr3, cpu.cr4, 0, 0, 0),
        debugreg=(cpu.dr0, cpu.dr1, cpu.dr2, cpu.dr3, 0, 0, cpu.dr6, cpu.dr7),
        fs_base=cpu.fs_base,
        gs_base_kernel=cpu.shadow_gs,
        gs_base_user=cpu.gs_base,
    ).pack()


def shared_info_of(kernel: Kernel, domid: DomId, frame: Mfn) -> bytes:
    """The page that a domain shares with Xen; nothing if it cannot be mapped, as a PVH domain's that has hidden it."""
    try:
        va = kernel.memory.map_frames(domid, [frame], writable=False)
    except XenError:
        return b""
    try:
        return kernel.cpu.load(va, PAGE_SIZE)
    finally:
        kernel.memory.unmap(va)


def xen_version(kernel: Kernel) -> bytes:
    """A struct xen_dumpcore_elfnote_xen_version_desc."""
    ask = kernel.hypercalls

    def text(what: int, size: int) -> bytes:
        return ask.hypercall_xen_version_text(what, size).encode()[:size].ljust(size, b"\0")

    version = ask.hypercall_xen_version(int(XENVER_version))
    compiled, platform = xen_compile_info(), xen_platform_parameters()
    ask.hypercall_xen_version(int(XENVER_compile_info), compiled)
    ask.hypercall_xen_version(int(XENVER_platform_parameters), platform)
    return b"".join(
        (
            struct.pack("<QQ", version >> 16, version & 0xFFFF),
            text(int(XENVER_extraversion), XEN_EXTRAVERSION_LEN),
            compiled.pack(),
            text(int(XENVER_capabilities), XEN_CAPABILITIES_INFO_LEN),
            text(int(XENVER_changeset), XEN_CHANGESET_INFO_LEN),
            platform.pack(),
            struct.pack("<Q", ask.hypercall_xen_version(int(XENVER_pagesize))),
        )
    )
