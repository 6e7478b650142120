"""A domain and its virtual CPUs: what all rooms hold of them, side by side, and where the domain stands in its life.

created ─(unpause)─► running ─(SCHEDOP_shutdown, crash)─► shut down
   │                    │                                    │
   └────────────────────┴──── destroy, or its process dies ──┴──► DYING ──(every step done)──► gone
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Protocol

from hypervisor.domain.effects import Effects
from hypervisor.domain.guest_console import GuestConsole
from hypervisor.domain.run_state import VcpuRun
from hypervisor.events.event_channels import EventChannels
from hypervisor.grants.grant_table import GrantTable
from hypervisor.mm.domain_memory import DomainMemory, VcpuMemory
from hypervisor.public.abi import COMPAT, NATIVE, Abi
from hypervisor.public.types import DomId, Mfn
from hypervisor.sched.scheduler import SchedUnit
from hypervisor.wire.mailbox import Engine, Mailbox
from hypervisor.wire.messages import EffectRecord

DEATH_STEPS: Final = 4
NO_FRAME: Final = Mfn(0)
"""Frame 0 is never anybody's."""


class Kind(Enum):
    """What a domain's guest is to its hypercalls. A Python guest is a 64-bit PV guest."""

    PV64 = auto()
    PV32 = auto()
    HVM = auto()


class Life(Enum):
    """Where a domain stands: it runs, it is taken apart in steps, or it is gone."""

    ALIVE = auto()
    DYING = auto()
    DEAD = auto()


@dataclass(eq=False)
class Domain:
    """One domain. `memfd` and `mailbox_fd` are the core's descriptors, closed when the domain is gone."""

    domid: DomId
    handle: bytes
    mem: DomainMemory
    mailbox: Mailbox
    memfd: int
    mailbox_fd: int
    privileged: bool = False
    kind: Kind = Kind.PV64
    shared_info: Mfn = NO_FRAME
    vcpus: list[Vcpu] = field(default_factory=list)
    life: Life = Life.ALIVE
    pause_count: int = 1
    """How often it was paused; the toolstack's first unpause starts it."""
    tool_pauses: int = 1
    """How many of those pauses XEN_DOMCTL_pausedomain counts for (V3)."""
    is_shut_down: bool = False
    shutdown_code: int | None = None
    """SHUTDOWN_…: what the domain's shutdown counts as; the guest may say so before (SCHEDOP_shutdown_code)."""
    vm_assist: int = 0
    abi: Abi = NATIVE
    """How a PV guest lays out the arguments of hypercalls, and shared_info; of an HVM guest see `Vcpu.abi`, `shared_abi`."""
    tsc_mode: int = 0
    """TSC_MODE_…, as its toolstack set it; the TSC is the same in all."""
    tsc_incarnation: int = 0
    """How often that was done, as the toolstack counts."""
    watchdogs: set[int] = field(default_factory=set)
    """The watchdogs that are in use, from 1; their deadlines are timers."""
    ssidref: int = 0
    pid: int = 0
    death_step: int = 0
    retry_ns: int = 0
    console: GuestConsole = field(default_factory=GuestConsole)
    permissions: set[tuple[str, int, int]] = field(default_factory=set)
    """("iomem", first, count), ("irq", …), ("ioport", …) that the control domain granted."""
    effects: Effects = field(default_factory=Effects)
    """What its process has yet to do before any of its vCPUs goes on: what concerns all of them."""
    events: EventChannels = field(init=False)
    grants: GrantTable = field(init=False)
    hvm_params: dict[int, int] = field(default_factory=dict)
    """HVM_PARAM_… that are not 0, of an HVM domain."""
    has_grants: bool = False
    """Whether `grants` is there: not while the domain is made, and never if its making failed before that."""

    @property
    def is_hvm(self) -> bool:
        """Its guest's CPU is the real one, under a P2M; else it is a PV guest, or a Python one."""
        return self.kind is Kind.HVM

    @property
    def shared_abi(self) -> Abi:
        """How shared_info, vcpu_info and run states are laid out (Xen's has_32bit_shinfo)."""
        return COMPAT if self.mailbox.has_32bit_shinfo else self.abi

    @property
    def is_shadowed(self) -> bool:
        """An HVM domain whose process makes shadow page tables; else its CPU walks the P2M."""
        return self.mailbox.engine is Engine.X86_64_SHADOW

    @property
    def paused(self) -> bool:
        """Whether anybody has paused it."""
        return self.pause_count > 0

    @property
    def destroying(self) -> bool:
        """True while the steps of its death go on; what others still hold of it is not counted."""
        return self.life is Life.DYING and self.death_step < DEATH_STEPS

    def runnable(self) -> bool:
        """True when its vCPUs may hold slices at all."""
        return self.life is Life.ALIVE and self.pause_count <= 0 and not self.is_shut_down


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
    """vcpu_guest_context, or of an HVM vCPU xenoscope_hvm_vcpu, as the toolstack set it or the process last saved it."""
    info_frame: Mfn | None = None
    """The frame that VCPUOP_register_vcpu_info registered; a writable type reference is held (D7)."""
    extended_callbacks: dict[int, EffectRecord] = field(default_factory=dict)
    """By CALLBACKTYPE_syscall32 and _sysenter: the CALLBACK that told the process of it."""
    runstate_area: int = 0
    periodic_period: int = 0
    """ns between two VIRQ_TIMERs of VCPUOP_set_periodic_timer; 0: none."""
    upcall_vector: int = 0
    """The vector that an HVM guest chose for this vCPU's events (HVMOP_set_evtchn_upcall_vector); 0: the domain's."""

    def take_effects(self) -> list[EffectRecord]:
        """All that the process has to do before this vCPU goes on; then there is nothing more."""
        shared = self.domain.effects
        return shared.take() + self.effects.take() if len(shared) else self.effects.take()

    @property
    def abi(self) -> Abi:
        """How the guest lays out the arguments of the hypercall that it makes now: an HVM guest by the code it executes."""
        domain = self.domain
        if domain.mem.p2m is None:
            return domain.abi
        return COMPAT if domain.mailbox.in_32bit_code(self.vcpu_id) else NATIVE


@dataclass(frozen=True)
class Work:
    """What goes on in the background on a domain's behalf. `step` is bounded; it returns True when all is done."""

    domain: Domain
    step: Callable[[], bool]
