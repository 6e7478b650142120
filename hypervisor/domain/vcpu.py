"""A virtual CPU: its parts in the other rooms, what its guest registered, and the effects its process has yet to apply."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from hypervisor.domain.effects import Effects
from hypervisor.domain.run_state import VcpuRun
from hypervisor.mm.domain_memory import VcpuMemory
from hypervisor.public.types import Mfn
from hypervisor.sched.scheduler import SchedUnit

if TYPE_CHECKING:
    from hypervisor.domain.domain import Domain


class Pending(Protocol):
    """A hypercall that is to go on: hypervisor.hypercalls' Call, which nobody below it looks into."""

    vcpu: Vcpu


@dataclass(eq=False)
class Vcpu:
    """One vCPU. `run`: where it stands, which is run control's to change (domain/run_control.py)."""

    vcpu_id: int
    domain: Domain
    mem: VcpuMemory
    unit: SchedUnit
    initialised: bool = False
    up: bool = False
    effects: Effects = field(default_factory=Effects)
    run: VcpuRun = field(default_factory=VcpuRun)
    rest: Pending | None = None
    """The rest of a multicall that one of its entries put to sleep."""
    context: bytes = b""
    """vcpu_guest_context as the toolstack set it or the process last saved it."""
    info_frame: Mfn | None = None
    """The frame that VCPUOP_register_vcpu_info registered; a writable type reference is held (D7)."""
    runstate_area: int = 0
    periodic_period: int = 0
    """ns between two VIRQ_TIMERs of VCPUOP_set_periodic_timer; 0: none."""
