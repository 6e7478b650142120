"""The vcpu_runstate_info that a guest may have registered (VCPUOP_register_runstate_memory_area)."""

from __future__ import annotations

from hypervisor.domain.domain import Vcpu
from hypervisor.public.vcpu import vcpu_runstate_info


def runstate_info(vcpu: Vcpu, now: int) -> vcpu_runstate_info:
    """The vCPU's run state up to `now` (ns)."""
    info = vcpu.unit.runstate
    return vcpu_runstate_info(
        state=int(info.state), state_entry_time=info.state_entry_time, time=tuple(info.times(now))
    )
