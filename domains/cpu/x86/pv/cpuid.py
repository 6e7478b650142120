"""CPUID for PV guests: the common model, of which 32-bit guests see less."""

from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import RAX, RBX, RCX, RDX, U32


def do_cpuid(v: X86Vcpu) -> None:
    """CPUID with the guest's registers; rip is left alone."""
    q = v.cpu.q
    v.exits["cpuid"] += 1
    q[RAX], q[RBX], q[RCX], q[RDX] = v.entry.cpuid(q[RAX] & U32, q[RCX] & U32)
