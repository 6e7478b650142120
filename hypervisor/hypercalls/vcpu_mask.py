"""A bitmap of vCPUs in guest memory, as the multi-vCPU TLB operations name it (T4)."""

from __future__ import annotations

from hypervisor.hypercalls.call import Call
from hypervisor.mm.domain_memory import VcpuMemory


def read_vcpu_mask(call: Call, va: int) -> list[VcpuMemory]:
    """The caller's vCPUs whose bits are set; bits beyond its last vCPU are ignored. XenError(EFAULT)."""
    vcpus = call.domain.mem.vcpus
    mask = 0
    for word in range(-(-len(vcpus) // 64)):
        raw = call.copy_from_guest(va + 8 * word, 8)
        mask |= int.from_bytes(raw, "little") << 64 * word
    return [v for v in vcpus if mask >> v.vcpu_id & 1]
