"""Start of day: what the builder left in memory, and where the kernel's free memory begins.

    virt_base   image │ ramdisk │ P2M │ start_info │ xenstore ring │ console ring │ page tables │ stack │ free
                                        ▲ rsi                                       ▲ pt_base           ▲ rsp

The initial mapping shows pseudo-physical frame p at virt_base + p * 4096 and ends somewhere behind the stack.
Source: Xen public/xen.h, "Start-of-day memory layout".
"""

from __future__ import annotations

from dataclasses import dataclass

from domains.cpu.python_cpu import PythonCpu
from hypervisor.public.arch_x86.xen_x86_64 import MACH2PHYS_VIRT_START
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, Mfn, Pfn, VAddr
from hypervisor.public.xen import start_info


@dataclass(frozen=True, slots=True)
class StartOfDay:
    """What the kernel knows before it has done anything."""

    info: start_info
    virt_base: VAddr
    first_free: Pfn
    """The first frame behind the bootstrap stack."""


def machine_to_phys(cpu: PythonCpu, mfn: Mfn) -> Pfn:
    """The M2P's entry, which Xen maps for every guest; meaningful for one's own frames only."""
    return Pfn(int.from_bytes(cpu.load(MACH2PHYS_VIRT_START + mfn * 8, 8), "little"))


def start_of_day(cpu: PythonCpu) -> StartOfDay:
    """Read start_info and work out the rest; nothing is changed."""
    info = start_info.unpack(cpu.load(cpu.rsi, start_info.sizeof))
    found = cpu.translate(cpu.rsi)
    if found is None:
        cpu.crash(f"start_info at {cpu.rsi:#x} is not mapped")
    virt_base = (cpu.rsi & -PAGE_SIZE) - (machine_to_phys(cpu, Mfn(found.mfn)) << PAGE_SHIFT)
    tables_end = info.pt_base + info.nr_pt_frames * PAGE_SIZE
    used = max(tables_end, cpu.rsp) - virt_base
    return StartOfDay(info, VAddr(virt_base), Pfn(-(-used >> PAGE_SHIFT)))
