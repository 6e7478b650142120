"""One vCPU as Xen's entry code sees it: the CPU's registers and the PV state that no register holds.

Everything that a trap, a hypercall or an interrupt of this vCPU touches is reached from here; the files beside this one
are what Xen does on each of them, as functions on an X86Vcpu. Words of PV state are named as in Xen's struct pv_vcpu.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from domains.cpu.clock import GuestClock, TscClock
from domains.cpu.event_words import EventWords
from domains.cpu.gate import Answer, Gate, TurnOver
from domains.cpu.x86.decode import Decoder
from domains.cpu.x86.emulator.cpu_state import CR, HF_TS, CpuState
from domains.cpu.x86.emulator.interposed import interposed
from domains.cpu.x86.pv.breakpoints import Breakpoints
from domains.cpu.x86.pv.direct_paging import DirectPaging
from domains.cpu.x86.pv.entry import Entry
from domains.cpu.x86.pv.mode import Mode
from domains.cpu.x86.pv.pit import Pit
from domains.cpu.x86.pv.posting import Posting
from domains.cpu.x86.pv.pv64_mode import Pv64Mode
from domains.cpu.x86.pv.pv_state import PvState
from domains.cpu.x86.pv.segments import Segments
from domains.cpu.x86.registers import CR0_TS
from hypervisor.machine.trace import Trace
from hypervisor.public.types import Mfn
from hypervisor.wire.messages import EffectRecord

Rest = Callable[[int, list[EffectRecord]], None]
"""What is done with an answer: (result, effects)."""
CR0_OF_XEN = 0x80050033
"""PG, AM, WP, NE, ET, MP, PE: what a guest reads of CR0, TS apart."""


class X86Vcpu:
    """`cpu.q[RAX]` … `cpu.q[RIP]` are its registers; rip is where the guest goes on. `exits` counts exits by cause."""

    def __init__(
        self,
        vcpu_id: int,
        gate: Gate,
        cpu: CpuState,
        paging: DirectPaging,
        mode: Mode,
        segments: Segments,
        decoder: Decoder,
        entry: Entry[X86Vcpu],
    ) -> None:
        self.vcpu_id = vcpu_id
        self.gate = gate
        self.nr_vcpus = gate.mailbox.vcpus
        """Of the domain, fixed since it was made."""
        self.cpu = cpu
        self.clock: GuestClock = gate.meter or TscClock(gate.mailbox)
        self.paging = paging
        self.segments = segments
        self.decoder = decoder
        self.mode = mode
        self.pv64: Pv64Mode
        """The same, of a 64-bit guest."""
        self.entry = entry
        """What the guest's kind of entry code does in its own way."""
        self.pv = PvState()
        if gate.meter is not None:
            self.pv.pit = Pit(gate.meter.tsc)
        self.shared_info: Mfn
        """The frame of the page that the domain shares with Xen; there once the vCPU has its first registers."""
        self.events: EventWords
        """Of the shared page; there once the vCPU has its first registers."""
        self.breakpoints: Breakpoints
        self.float_unit = interposed().float_unit
        self.exits: Counter[str] = Counter()
        self.trace = Trace()
        self.events_seen = -1
        """The mailbox counter when raised ports were last collected."""
        self.posting: Posting | None = None
        """What may be done to page tables without waiting; None: nothing."""
        self.rest: Rest | None = None
        """What is to be done with the answer that this vCPU waits for; None while it is its turn."""
        self.siblings: Sequence[X86Vcpu] = (self,)
        """All vCPUs of the domain, by number."""

    def ask(self, rest: Rest, request: Callable[..., Answer], *args: int | None) -> None:
        """Make a request of the gate's, and do `rest` with the answer: now, or after other vCPUs' turns if those come first.

        Nothing may be done for the guest after it in the same exit: all that follows is in `rest`.
        """
        try:
            answer = request(self.vcpu_id, *args)
        except TurnOver:
            self.rest = rest
        else:
            rest(*answer)

    def events_of(self, vcpu: int) -> EventWords:
        """The event words of a vCPU of this domain."""
        return self.siblings[vcpu].events

    def set_ts(self, on: bool) -> None:
        """CR0.TS of the guest: the next FPU instruction gives #NM."""
        self.pv.cr0_ts = on
        cr0 = self.cpu.q[CR]
        self.cpu.q[CR] = cr0 | CR0_TS if on else cr0 & ~CR0_TS
        self.cpu.set_hflags(HF_TS, HF_TS if on else 0)
