"""A virtual CPU: its parts in the other rooms, what its guest registered, and the effects its process has yet to apply."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from hypervisor.domain.effects import Effects
from hypervisor.mm.domain_memory import VcpuMemory
from hypervisor.public.types import Mfn
from hypervisor.sched.scheduler import SchedUnit

if TYPE_CHECKING:
    from hypervisor.domain.domain import Domain


class Pending(Protocol):
    """A hypercall that is to go on: hypervisor.hypercalls' Call, which nobody below it looks into."""

    vcpu: Vcpu


@dataclass
class Reply:
    """The answer to the request that a process waits for; sent when the vCPU holds a slice."""

    seq: int
    result: int


@dataclass
class Polling:
    """A SCHEDOP_poll or SCHEDOP_block in progress."""

    ports: tuple[int, ...] = ()


@dataclass(eq=False)
class Vcpu:
    """One vCPU. `waiting_seq`: the process's outstanding request; `reply`: its answer, once there is one."""

    vcpu_id: int
    domain: Domain
    mem: VcpuMemory
    unit: SchedUnit
    initialised: bool = False
    up: bool = False
    effects: Effects = field(default_factory=Effects)
    waiting_seq: int | None = None
    reply: Reply | None = None
    blocked: Polling | None = None
    after_block: Pending | None = None
    """The rest of a multicall that one of its entries put to sleep."""
    context: bytes = b""
    """vcpu_guest_context as the toolstack set it or the process last saved it."""
    context_saved: bool = False
    saving: bool = False
    info_frame: Mfn | None = None
    """The frame that VCPUOP_register_vcpu_info registered; a writable type reference is held (D7)."""
    runstate_area: int = 0
    periodic_period: int = 0
    """ns between two VIRQ_TIMERs of VCPUOP_set_periodic_timer; 0: none."""
