"""CPUID for HVM guests: the model (hypervisor/machine/hvm_cpuid.py), and what is each vCPU's own."""

from typing import Final

from domains.cpu.x86.hvm.vcpu import HvmVcpu
from domains.cpu.x86.msr import MSR_XEN_HYPERCALL_PAGE
from domains.cpu.x86.registers import RAX, RBX, RCX, RDX, U32
from hypervisor.machine.cpuid import TSC_KHZ, Leaf
from hypervisor.machine.cpuid import guest_cpuid as pv_cpuid
from hypervisor.machine.hvm_cpuid import LEAVES, features_leaf

HYPERCALL_PAGES: Final = 1
VCPU_ID_PRESENT: Final = 1 << 3
DOMID_PRESENT: Final = 1 << 4


def hvm_cpuid(leaf: int, subleaf: int, vcpu: int, domid: int) -> Leaf:
    """The answer to CPUID on this vCPU; zeros for what there is not."""
    if leaf == 1:
        return features_leaf(vcpu)
    if leaf == 0x4000_0002:
        return HYPERCALL_PAGES, MSR_XEN_HYPERCALL_PAGE, 0, 0
    if leaf == 0x4000_0003 and subleaf == 0:
        return 0, 0, TSC_KHZ, 0
    if leaf == 0x4000_0004:
        return VCPU_ID_PRESENT | DOMID_PRESENT, vcpu, domid, 0
    return LEAVES[leaf] if leaf in LEAVES else pv_cpuid(leaf, subleaf)


def do_cpuid(v: HvmVcpu) -> None:
    """CPUID with the guest's registers; rip is left alone."""
    q = v.cpu.q
    v.exits["cpuid"] += 1
    q[RAX], q[RBX], q[RCX], q[RDX] = hvm_cpuid(q[RAX] & U32, q[RCX] & U32, v.vcpu_id, v.gate.domid)
