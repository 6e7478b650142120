"""A bitmap of vCPUs in guest memory, as the multi-vCPU TLB operations name it (T4)."""

from __future__ import annotations

from hypervisor.hypercalls.call import Call
from hypervisor.mm.domain_memory import VcpuMemory


def read_vcpu_mask(call: Call, va: int) -> list[VcpuMemory]:
    """The caller's vCPUs whose bits are set; bits beyond its last vCPU are ignored. XenError(EFAULT)."""
    vcpus = call.domain.mem.vcpus
    bits = call.abi.address_size
    words = call.read_words(va, -(-len(vcpus) // bits))
    mask = sum(word << bits * place for place, word in enumerate(words))
    return [v for v in vcpus if mask >> v.vcpu_id & 1]
