"""One vCPU of an HVM guest: the CPU's registers are the guest's own, so little is kept beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from domains.cpu.clock import GuestClock, TscClock
from domains.cpu.event_words import EventWords
from domains.cpu.gate import Gate
from domains.cpu.x86.decode import Decoder
from domains.cpu.x86.emulator.cpu_state import CpuState
from domains.cpu.x86.emulator.float_unit import FloatUnit
from domains.cpu.x86.hvm.lapic import LocalApic
from domains.cpu.x86.hvm.mode import HvmMode
from domains.cpu.x86.hvm.paging import HvmPaging
from domains.cpu.x86.hvm.stubs import HvmStubs
from hypervisor.public.abi import COMPAT, NATIVE

ExitHandlers = dict[int, tuple[str, Callable[["HvmVcpu"], int]]]
"""By exit code: the cause's name and what is done."""


class HvmVcpu:
    """`cpu.q[RAX]` … `cpu.q[RIP]` are its registers; rip is where the guest goes on. `exits` counts exits by cause; what is done
    without one is counted by `stubs`.
    """

    def __init__(
        self,
        vcpu_id: int,
        gate: Gate,
        cpu: CpuState,
        paging: HvmPaging,
        stubs: HvmStubs,
        unit: FloatUnit,
        handlers: ExitHandlers,
    ) -> None:
        self.handlers = handlers
        self.vcpu_id = vcpu_id
        self.gate = gate
        self.cpu = cpu
        self.paging = paging
        self.stubs = stubs
        self.float_unit = unit
        self.clock: GuestClock = gate.meter or TscClock(gate.mailbox)
        self.mode = HvmMode(cpu)
        self.decoder = Decoder(cpu, paging)
        self.apic = LocalApic(vcpu_id)
        self.events: EventWords
        """Of the shared page; there once the core has said where that lies."""
        self.events_seen = -1
        self.exits: Counter[str] = Counter()
        self.result_size = 0
        """Bytes of RAX into which the result of the hypercall that the guest makes goes; 0: it makes none."""

    def take_clock(self) -> None:
        """The TSC is ahead of the host's clock by what the core says now."""
        mailbox = self.gate.mailbox
        self.clock = self.gate.meter or TscClock(mailbox)
        self.stubs.set_tsc_offset(mailbox.tsc_offset)
        if hasattr(self, "events"):
            self.events.set_clock(self.clock.tsc_at_start)

    def events_of(self, _vcpu: int) -> EventWords:
        """The event words of the only vCPU that runs."""
        return self.events

    def latch_shinfo_size(self) -> None:
        """The guest reads shared_info as the code that it executes now: from its first steps towards events on, as on Xen."""
        compat = not self.mode.in_64bit_code
        self.gate.mailbox.latch_shinfo_size(is_32bit=compat)
        self.events.latch(COMPAT if compat else NATIVE)
