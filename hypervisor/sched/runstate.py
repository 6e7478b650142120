"""Run states of a vCPU and the time spent in each, as `vcpu_runstate_info` accounts it (Xen public/vcpu.h)."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypervisor.public.vcpu import RunState


@dataclass
class RunStateInfo:
    """Times in ns of system time."""

    state: RunState = RunState.RUNSTATE_offline
    state_entry_time: int = 0
    time: list[int] = field(default_factory=lambda: [0, 0, 0, 0])

    def change(self, state: RunState, now: int) -> None:
        """Enters `state` at `now` (ns) and accounts the time spent in the one before."""
        self.time[self.state] += now - self.state_entry_time
        self.state, self.state_entry_time = state, now

    def times(self, now: int) -> list[int]:
        """Time in each state up to `now`."""
        times = list(self.time)
        times[self.state] += now - self.state_entry_time
        return times
