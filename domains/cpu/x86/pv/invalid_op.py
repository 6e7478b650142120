"""#UD: Xen's forced emulation prefix (a guest's way to reach Xen's CPUID), ICEBP, and the guest's own invalid opcodes."""

from typing import Final

from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.paging import GuestFault
from domains.cpu.x86.pv.bounce import inject_debug, inject_hw_exception, inject_page_fault
from domains.cpu.x86.pv.cpuid import do_cpuid
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import EXC_UD, U64
from hypervisor.public.arch_x86.xen import XEN_EMULATE_PREFIX

CPUID: Final = b"\x0f\xa2"
FORCED: Final = len(XEN_EMULATE_PREFIX) + len(CPUID)


def handle_invalid_op(v: X86Vcpu) -> None:
    """rip is at the instruction."""
    rip = v.cpu.q[RIP]
    try:
        if v.decoder.fetch(rip, len(XEN_EMULATE_PREFIX)) == XEN_EMULATE_PREFIX:
            octets = v.paging.read(rip, FORCED)
            if octets.endswith(CPUID):
                do_cpuid(v)
                v.cpu.q[RIP] = rip + FORCED & U64
                return
        elif length := v.decoder.icebp(rip):
            v.cpu.q[RIP] = rip + length & U64
            inject_debug(v, 0)
            return
    except GuestFault as fault:
        inject_page_fault(v, fault.va, fault.error_code)
        return
    inject_hw_exception(v, EXC_UD)
