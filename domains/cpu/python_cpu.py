"""A CPU whose guest kernel is Python code.

Owns one vCPU's state: CR3 and user CR3, TLBs, the mode, the virtual IDT, callbacks, and the event words of
its shared page. The guest touches memory only by `load`, `store` and `view` at virtual addresses, which
walk real page tables; what they refuse is a page fault, delivered to the handler that the guest registered
with a real set_trap_table hypercall. Effects of hypercalls are applied in order before the next access.

    guest code ──load/store──► TLB ──miss──► page walk ──fault──► handler ──returns──► walk again
         └──────hypercall────► gate ──► core;  reply ──► effects ──► upcall, if one is pending and not masked

Events reach the guest at three points: after a hypercall, when it unmasks them, and from SIGUSR1 while it
computes. Differences from hardware: a TLB holds at most TLB_ENTRIES pages and is emptied when full; a
handler that returns MAX_REFAULTS times without having repaired anything ends the domain, where hardware
would fault for ever.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

from domains.cpu.clock import TscClock
from domains.cpu.effects import EFFECTS
from domains.cpu.event_words import EventWords
from domains.cpu.gate import Gate
from domains.cpu.local_calls import LOCAL_CALLS
from domains.cpu.page_walk import Translation
from domains.cpu.python_memory import PAGE_OFFSET, PythonMemory
from domains.cpu.traps import TI_GET_IF, TrapFrame
from hypervisor.machine.paging import PFEC_FETCH
from hypervisor.public.arch_x86.xen import vcpu_guest_context
from hypervisor.public.callback import CALLBACKTYPE_event, CALLBACKTYPE_syscall
from hypervisor.public.event_channel import EVTCHNOP_send, evtchn_send
from hypervisor.public.sched import SCHEDOP_block
from hypervisor.public.trace import TRC_PV_TRAP
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, VAddr
from hypervisor.public.xen import Hypercall, start_info
from hypervisor.wire.messages import EffectRecord

MAX_NESTED_TRAPS: Final = 8
_BLOCKING: Final = {(int(Hypercall.sched_op), int(SCHEDOP_block))}
_SENDING: Final = (int(Hypercall.event_channel_op), int(EVTCHNOP_send))


class PythonCpu(PythonMemory):
    """One vCPU. Single-threaded: the SIGUSR1 handler is the only thing that comes between two steps of the
    guest.
    """

    def __init__(self, gate: Gate, vcpu: int = 0) -> None:
        super().__init__(gate, vcpu)
        self._collected = -1
        self._nested_traps = 0

    # --- traps and modes -------------------------------------------------------------------------

    def bounce(self, vector: int, error_code: int) -> None:
        """Deliver a trap to the guest kernel's handler, in kernel mode; returns when the handler does.

        Ends the domain if there is no handler, or if handlers trap in each other's midst (a double fault).
        """
        if self.trace.sink is not None:
            self.trace.record(TRC_PV_TRAP, vector, error_code)
        gate = self.traps.gate(vector)
        if gate is None:
            self.crash(f"trap {vector} (error {error_code:#x}) and no handler: double fault")
        if self._nested_traps == MAX_NESTED_TRAPS:
            self.crash(f"trap {vector} in {MAX_NESTED_TRAPS} trap handlers: double fault")
        handler = self._code_at(gate.address)
        frame = TrapFrame(vector, error_code, self.user, self.events.upcall_mask)
        self._nested_traps += 1
        try:
            with self._kernel_mode(mask_events=bool(gate.flags & TI_GET_IF)):
                handler(frame)
        finally:
            self._nested_traps -= 1
        self.deliver_events()

    @contextmanager
    def _kernel_mode(self, mask_events: bool) -> Iterator[None]:
        """Enter the guest kernel and come back as iret does: mode and event mask are those of before."""
        user, masked = self.user, self.events.upcall_mask
        self.switch_mode(False)
        if mask_events:
            self.events.upcall_mask = True
        try:
            yield
        finally:
            self.switch_mode(user)
            self.events.upcall_mask = masked

    @contextmanager
    def user_mode(self) -> Iterator[None]:
        """Run the block as guest user code: under the user page table, without hypercalls."""
        if self.user_cr3 is None:
            self.crash("user mode without a user page table")
        self.switch_mode(True)
        try:
            yield
        finally:
            self.switch_mode(False)

    def switch_mode(self, user: bool) -> None:
        """Load the page table of the mode; each mode has TLBs of its own."""
        self.user = user
        self.tlb_read, self.tlb_write = self.user_tlbs if user else self.kernel_tlbs

    def _code_at(self, address: int) -> Callable[..., int]:
        """The kernel's callable at `address`, if the page there may be executed; a jump elsewhere ends the
        domain.
        """
        handler = self.code.handler_at(address)
        table = self.cr3
        found = None if table is None else self._walk.translate(table, address, fetch=True)
        if handler is None or not isinstance(found, Translation):
            self.crash(f"jump to {address:#x}, where no code is (error {PFEC_FETCH:#x})")
        return handler

    # --- hypercalls ------------------------------------------------------------------------------

    def syscall(self, nr: int, *args: int) -> int:
        """The syscall instruction: a hypercall from kernel mode, the guest kernel's own handler from user
        mode.
        """
        if not self.user:
            return self.hypercall(nr, *args)
        address, masks = self.callbacks.get(CALLBACKTYPE_syscall, (0, False))
        handler = self._code_at(address)
        with self._kernel_mode(masks):
            result = handler(nr, *args)
        self.deliver_events()
        return result

    def hypercall(self, nr: int, *args: int) -> int:
        """Enter Xen: result of hypercall `nr`, negative for an error; its effects are in force when this
        returns.

        Arguments are 64-bit numbers, addresses being virtual ones of this vCPU. Kernel mode only (H1).
        """
        if self.user:
            raise PermissionError("a hypercall from guest user mode")
        local = LOCAL_CALLS.get(nr)
        if local is not None:
            return local(self, *args)
        self._in_xen = True
        try:
            if args and (nr, args[0]) in _BLOCKING:
                result = self._block()
            elif args and (nr, args[0]) == _SENDING and is_sent(self, args[1]):
                result = 0
            else:
                result, effects = self.gate.hypercall(self.vcpu, nr, *args)
                self.apply(effects)
        finally:
            self._in_xen = False
        self._give_slice_back()
        self.deliver_events()
        return result

    def hypercall_under(self, table: int, nr: int, *args: int) -> int:
        """The same under another pinned L4, where the addresses in the arguments are looked up; the own one is in force again
        when this returns. No upcall comes in between.
        """
        own, gate = self.cr3 or 0, self.gate
        self._in_xen = True
        try:
            self.apply(gate.new_baseptr(self.vcpu, table)[1])
            result, effects = gate.hypercall(self.vcpu, nr, *args)
            self.apply(effects)
            self.apply(gate.new_baseptr(self.vcpu, own)[1])
        finally:
            self._in_xen = False
        self._give_slice_back()
        self.deliver_events()
        return result

    def _block(self) -> int:
        """SCHEDOP_block: unmasks events; returns at once if one is pending. No upcall can come between the
        two.
        """
        self.events.upcall_mask = False
        self.collect_events()
        if self.events.upcall_pending:
            return 0
        result, effects = self.gate.hypercall(self.vcpu, Hypercall.sched_op, SCHEDOP_block)
        self.apply(effects)
        return result

    def apply(self, effects: Sequence[EffectRecord]) -> None:
        """Perform a reply's effects in order."""
        for kind, *fields in effects:
            EFFECTS[kind](self, *fields)

    def local_call(self, nr: int, args: Sequence[int], result_va: int | None) -> None:
        """A multicall entry that the process performs itself; its result goes to the entry's result word."""
        call = LOCAL_CALLS.get(nr)
        result = call(self, *args) if call is not None else 0  # PHYSDEVOP_set_iopl: this CPU has no ports
        if result_va is not None:
            self.store(result_va, (result & (1 << 64) - 1).to_bytes(8, "little"))

    # --- events ----------------------------------------------------------------------------------

    def collect_events(self) -> None:
        """Make pending, in the shared page, what the core has raised since the last time.

        The mailbox's counter tells whether there is anything. An interrupt in the middle would write the same
        words: it is held off, and made up for.
        """
        held, counter = self._in_xen, self.gate.mailbox.counter
        while counter(self.vcpu) != self._collected:
            self._in_xen = True
            self._collected = counter(self.vcpu)
            for port in self.gate.raised(self.vcpu):
                self.events.set_pending(port)
            self._in_xen = held
            if not held:
                self._give_slice_back()

    def deliver_events(self) -> None:
        """Collect, then call the guest's event callback while an upcall is pending and not masked."""
        self.collect_events()
        events = self.events
        while events.upcall_pending and not events.upcall_mask:
            address, _ = self.callbacks.get(CALLBACKTYPE_event, (0, False))
            if not address:
                return
            with self._kernel_mode(mask_events=True):
                self._code_at(address)()
            self.collect_events()

    def _give_slice_back(self) -> None:
        """The stop byte is set: the slice is over, or something is to be looked at; go on with the next one."""
        while self.gate.should_stop(self.vcpu):
            self._in_xen = True
            try:
                self.apply(self.gate.stopped(self.vcpu)[1])
            finally:
                self._in_xen = False

    def interrupt(self, _signum: int = 0, _frame: FrameType | None = None) -> None:
        """SIGUSR1: the core has raised something or wants the slice back.

        In Xen already, the way out will see to it. While upcalls are masked events stay in the mailbox, for
        the guest may be at the words they would change.
        """
        if self._in_xen or self.gate.busy or not self.started:
            return
        self._give_slice_back()
        if not self.events.upcall_mask:
            self.deliver_events()

    # --- life ------------------------------------------------------------------------------------

    def boot(self, effects: Sequence[EffectRecord]) -> None:
        """Take over the effects of the START request; from here on the core's signals are heeded."""
        self.apply(effects)
        self.code.image = self.rip
        found = self.translate(self.rsi)
        if found is None:
            self.crash(f"start_info at {self.rsi:#x} is not mapped")
        info = (found.mfn << PAGE_SHIFT) + (self.rsi & PAGE_OFFSET) + start_info.offsetof("shared_info")
        shared = int.from_bytes(self.memory.read(info, 8), "little")
        self.events = EventWords(self.memory.view(shared, PAGE_SIZE), self.vcpu)
        self._clock = TscClock(self.gate.mailbox)
        self.events.set_clock(self._clock.tsc_at_start)
        self.gate.save_context = lambda _vcpu: self.saved_context()
        self.started = True
        signal.signal(signal.SIGUSR1, self.interrupt)

    def saved_context(self) -> bytes:
        """vcpu_guest_context with the page tables of now. What a Python kernel is doing is in no register."""
        raw = bytearray(self.context)
        at = vcpu_guest_context.offsetof("ctrlreg")
        raw[at + 24 : at + 32] = ((self.cr3 or 0) << PAGE_SHIFT).to_bytes(8, "little")
        raw[at + 8 : at + 16] = ((self.user_cr3 or 0) << PAGE_SHIFT).to_bytes(8, "little")
        return bytes(raw)

    def rdtsc(self) -> int:
        """The time-stamp counter: nanoseconds of the host's monotonic clock."""
        return self._clock.tsc()

    def address_of(self, handler: Callable[..., int | None]) -> VAddr:
        """The code address that stands for `handler`, to be given to set_trap_table or a callback."""
        return self.code.address_of(handler)

    def crash(self, reason: str) -> NoReturn:
        """The guest broke the contract: its domain ends."""
        self._in_xen = True
        self.gate.crash(self.vcpu, reason)


def is_sent(cpu: PythonCpu, argument: int) -> bool:
    """Whether an event needs no answer (event_posts.py). Its argument is looked at only where that cannot fault."""
    page, offset = cpu.tlb_read.get(argument >> PAGE_SHIFT), argument & PAGE_OFFSET
    if page is None or offset > PAGE_SIZE - evtchn_send.sizeof:
        return False
    port = page[offset : offset + evtchn_send.sizeof]
    return cpu.gate.post_event(cpu.vcpu, int.from_bytes(port, "little"))
