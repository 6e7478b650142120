"""ARINC 653: a fixed schedule. Each minor frame belongs to one vCPU, whether it uses it or not; the frames begin again for ever.

    │← major frame ───────────────────────────→│
    │ d1v0  10 ms │ d2v0  5 ms │ (nobody's)    │ d1v0 …

Source: Xen common/sched/arinc653.c. Nobody else runs in a frame, and a vCPU without a frame never runs: what one partition does
cannot be noticed by another. The schedule names domains by their handle (UUID), so that it can be set before they are there.
Dom0's vCPUs get a frame of 10 ms each when they come, which a new schedule replaces.

The schedule is for one CPU: of the pool's, the lowest that the frame's vCPU may run on. (On Xen a vCPU stays on the CPU that
it came to, and a frame that is another CPU's is not run.) The other CPUs of the pool idle; a machine has more of them in use
by pools of one.
"""

from __future__ import annotations

from typing import Final

from hypervisor.public.domctl_vcpu import XEN_SCHEDULER_ARINC653
from hypervisor.sched.params import (
    ARINC653_MAX_DOMAINS_PER_SCHEDULE,
    Arinc653Schedule,
    GlobalParams,
    MinorFrame,
)
from hypervisor.sched.policy import Policy
from hypervisor.sched.scheduler import SchedUnit, Turn

DEFAULT_TIMESLICE_NS: Final = 10_000_000
CONTROL_DOMID: Final = 0


class Arinc653(Policy):
    """The schedule, since when it holds, and which vCPUs wait."""

    name = "arinc653"
    sched_id = int(XEN_SCHEDULER_ARINC653)
    pins = True
    rotates = False

    def __init__(self) -> None:
        super().__init__()
        self._schedule: Arinc653Schedule | None = None
        self._begin = 0
        self._next_switch = 0
        self._cpus = 0
        self._units: dict[SchedUnit, None] = {}
        self._waiting: dict[SchedUnit, None] = {}

    def cpu_add(self, cpu: int, now: int) -> None:
        """See Scheduler."""
        self._cpus |= 1 << cpu

    def cpu_remove(self, cpu: int, now: int) -> None:
        """See Scheduler."""
        self._cpus &= ~(1 << cpu)

    # --- units -----------------------------------------------------------------------------------

    def add(self, unit: SchedUnit, now: int) -> None:
        """A vCPU of Dom0 gets a frame of its own behind the others, as on Xen."""
        self._units[unit] = None
        if unit.domid != CONTROL_DOMID:
            return
        old = self._schedule
        frames = old.frames if old is not None else ()
        if len(frames) < ARINC653_MAX_DOMAINS_PER_SCHEDULE:
            major = DEFAULT_TIMESLICE_NS + (old.major_frame_ns if old is not None else 0)
            frame = MinorFrame(unit.handle, unit.vcpu_id, DEFAULT_TIMESLICE_NS)
            self._schedule = Arinc653Schedule(major, (*frames, frame))

    def forget(self, unit: SchedUnit, now: int) -> None:
        """The vCPU is gone; its frames are nobody's."""
        self.remove(unit, now)
        self._units.pop(unit, None)

    def insert(self, unit: SchedUnit, now: int, *, woken: bool) -> None:
        """It waits for its frame."""
        self._stops(unit, now)
        unit.yielding = False
        self._waiting[unit] = None

    def remove(self, unit: SchedUnit, now: int) -> None:
        """It sleeps."""
        self._stops(unit, now)
        self._waiting.pop(unit, None)

    def pick(self, cpu: int, now: int) -> Turn | None:
        """The vCPU whose frame it is, to the frame's end."""
        unit, end = self._frame(now)
        if unit is None or unit not in self._waiting or not unit.may_run(cpu) or cpu != self._cpu_of(unit):
            return None
        del self._waiting[unit]
        self._starts(unit, now)
        return Turn(unit, end - now, strict=True)

    def waits_for(self, cpu: int) -> bool:
        """False: nobody waits for a CPU, but for a frame."""
        return False

    def holds_back(self, unit: SchedUnit, now: int) -> bool:
        """Whether it is not its frame."""
        return unit is not self._frame(now)[0]

    def describe(self, unit: SchedUnit, now: int) -> str:
        """Whether it is its frame."""
        return "its frame" if unit is self._frame(now)[0] else "not its frame"

    def _cpu_of(self, unit: SchedUnit) -> int:
        allowed = unit.hard & self._cpus
        return (allowed & -allowed).bit_length() - 1

    # --- frames ----------------------------------------------------------------------------------

    def next_event(self) -> int | None:
        """The next frame's begin, if anybody waits for one."""
        return self._next_switch if self._waiting else None

    def tick(self, now: int) -> list[SchedUnit]:
        """A frame begins; its vCPU, if it waits."""
        unit, self._next_switch = self._frame(now)
        return [unit] if unit in self._waiting and unit is not None else []

    def _frame(self, now: int) -> tuple[SchedUnit | None, int]:
        """Whose frame it is, and when it ends."""
        schedule = self._schedule
        if schedule is None:
            return None, now + DEFAULT_TIMESLICE_NS
        within = (now - self._begin) % schedule.major_frame_ns
        begin, end = now - within, 0
        for frame in schedule.frames:
            end += frame.runtime_ns
            if within < end:
                return self._unit_of(frame), begin + end
        return None, begin + schedule.major_frame_ns

    def _unit_of(self, frame: MinorFrame) -> SchedUnit | None:
        named = (u for u in self._units if u.handle == frame.handle and u.vcpu_id == frame.vcpu_id)
        return next(named, None)

    # --- parameters ------------------------------------------------------------------------------

    def global_params(self) -> GlobalParams:
        """The schedule. Without any: one frame of 10 ms that is nobody's."""
        nobody = MinorFrame(bytes(16), 0, DEFAULT_TIMESLICE_NS)
        return self._schedule or Arinc653Schedule(DEFAULT_TIMESLICE_NS, (nobody,))

    def adjust_global(self, params: GlobalParams, now: int) -> None:
        """A new schedule, whose first frame begins at once."""
        if not isinstance(params, Arinc653Schedule):
            raise self._foreign(params)
        self._schedule, self._begin, self._next_switch = params, now, now
        for unit in self.running:
            unit.slice_end = min(unit.slice_end, now)
