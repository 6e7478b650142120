"""Hardware breakpoints: what the guest's DR0 to DR3 and DR7 watch raises #DB, with its bit in DR6.

Unicorn has none. While DR7 enables one, and only then, the engine runs in a slower way, for which all translated code is
dropped: `step_stub` is called before each instruction, and a hook of Unicorn's sees each access to the machine memory that is
watched.

    an access to what is watched ──► its bit in `hits` ──► before the next instruction: #DB, a trap (Intel SDM vol. 3B §18.3);
                                                           after MOV or POP to SS one instruction later
    an instruction that is watched ──► before it: #DB, a fault, unless RF says that it was taken already

Differences from a CPU: an access by another virtual address of the same machine memory counts, too; one that begins in the
page before does not; nor do those that Xen's entry code makes for the guest.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Final, NamedTuple

from domains.cpu.x86.emulator.cpu_state import RFLAGS, RIP, CpuState
from domains.cpu.x86.emulator.interposed import interposed
from domains.cpu.x86.emulator.step_stub import NO_RIP, step_stub
from domains.cpu.x86.emulator.stop_stub import StopStub
from domains.cpu.x86.emulator.unicorn_library import HOOK_CODE, MEM_WRITE, MEMORY_HOOK, UnicornLibrary
from domains.cpu.x86.paging import GuestFault, Paging
from domains.cpu.x86.pv.pv_state import PvState
from domains.cpu.x86.registers import EFLAGS_RF

EXECUTE, ACCESS = 0, 3
"""What DR7's two bits a breakpoint ask for; 1 is writing, 2 is I/O, which never reaches the CPU (debug_registers)."""
LENGTHS: Final = (1, 2, 8, 4)
WIDEST: Final = 64
"""Bytes of the widest access: so far before what is watched may one begin that touches it."""


class Armed(NamedTuple):
    """One breakpoint that DR7 enables; `rip` is where, if it is one on an instruction."""

    number: int
    kind: int
    rip: int


class Watched(NamedTuple):
    """One breakpoint on data, where it lies now for the emulated CPU."""

    number: int
    physical: int
    length: int
    kind: int


class Breakpoints:
    """Of one vCPU. `stale`: `settle` has something to do before the guest goes on. `watching`: data is watched."""

    def __init__(
        self, library: UnicornLibrary, cpu: CpuState, pv: PvState, paging: Paging, stop_stub: StopStub
    ) -> None:
        self._library = library
        self._cpu, self._pv, self._paging = cpu, pv, paging
        self._stop_stub = stop_stub
        self._control = (ctypes.c_uint64 * 5)(0, *[NO_RIP] * 4)
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._octets = (ctypes.c_uint8 * mmap.PAGESIZE).from_buffer(self._page)
        code = step_stub(cpu.env, library.cpu.value or 0)
        self._page[: len(code)] = code
        self._on_access = MEMORY_HOOK(self._accessed)
        self._hooks: list[int] = []
        self._watched: list[Watched] = []
        self._armed: list[Armed] = []
        self.stale = self.watching = False

    def changed(self) -> None:
        """The guest wrote a debug register."""
        self.stale = self._enabled() != self._armed
        if self.stale:
            self._library.emu_stop()
        elif self.watching:
            self.refresh()

    def leave(self) -> None:
        """Outside emulation: another vCPU runs next. `changed` and `settle` put in force again what this one watches."""
        if self._armed:
            self._disarm()
            self._armed = []
            self._watch(False)

    def settle(self) -> None:
        """Outside emulation: arm, disarm, or change what is watched."""
        self._disarm()
        self._armed, self.stale = self._enabled(), False
        self._control[:] = [0, *[NO_RIP] * 4]
        for armed in self._armed:
            self._control[1 + armed.number] = armed.rip
        if self._armed:
            self._stop_stub.stepping(True)
            address, control = ctypes.addressof(self._octets), ctypes.addressof(self._control)
            self._hooks.append(self._library.add_code_hook(HOOK_CODE, address, control))
        self._watch(any(armed.kind != EXECUTE for armed in self._armed))
        if self.watching:
            self._hooks.append(
                self._library.add_memory_hook(self._on_access, 0, 0)
            )  # the code must be made for hooks
            self.refresh()

    def _watch(self, data: bool) -> None:
        """All code is translated anew; a hook on memory sees no atomic access."""
        self.watching = data
        interposed().atomic_locks.want(not data)
        self._library.tb_flush()

    def _disarm(self) -> None:
        """A removed hook is gone when emulation ends: there is one that ends as it begins."""
        if not self._hooks:
            return
        for hook in self._hooks:
            self._library.remove_hook(hook)
        self._hooks, self._watched = [], []
        self._stop_stub.ask()
        self._library.emu_start(self._cpu.q[RIP])
        self._stop_stub.stepping(False)

    def refresh(self) -> None:
        """While data is watched, after each exit: the guest's tables may have changed."""
        wanted = [found for armed in self._armed if (found := self._placed(armed)) is not None]
        if wanted != self._watched:
            for hook in self._hooks[2:]:
                self._library.remove_hook(hook)
            spans = [
                (max(at.physical - WIDEST, at.physical & -4096), at.physical + at.length - 1) for at in wanted
            ]
            added = [self._library.add_memory_hook(self._on_access, *span) for span in spans]
            self._watched, self._hooks[2:] = wanted, added

    def forget(self) -> None:
        """The instruction that hit did not complete, or ended in Xen, which drops a #DB of its own entry (XSA-260)."""
        self._control[0] = 0

    def take(self) -> int:
        """DR6's bits for the #DB that is being handled; one that is a fault will not be taken again."""
        bits, self._control[0] = int(self._control[0]), 0
        q = self._cpu.q
        if not bits and not q[RFLAGS] & EFLAGS_RF:
            bits = sum(1 << number for number in range(4) if self._control[1 + number] == q[RIP])
            if bits:
                q[RFLAGS] = q[RFLAGS] | EFLAGS_RF
        return bits

    def _enabled(self) -> list[Armed]:
        pv, found = self._pv, []
        for number in range(4):
            if pv.dr7 >> 2 * number & 3:
                kind = pv.dr7 >> 16 + 4 * number & 3
                found.append(Armed(number, kind, pv.dr[number] if kind == EXECUTE else NO_RIP))
        return found

    def _placed(self, armed: Armed) -> Watched | None:
        """None while it is mapped nowhere, or is no breakpoint on data."""
        pv, number = self._pv, armed.number
        if armed.kind == EXECUTE:
            return None
        length = LENGTHS[pv.dr7 >> 18 + 4 * number & 3]
        try:
            maddr = self._paging.translate(pv.dr[number] & -length)
        except GuestFault:
            return None
        return Watched(number, self._paging.physical(maddr), length, armed.kind)

    def _accessed(self, _uc: int, kind: int, maddr: int, size: int, _value: int, _data: int) -> None:
        for at in self._watched:
            touched = maddr < at.physical + at.length and maddr + size > at.physical
            if touched and (at.kind == ACCESS or kind == MEM_WRITE):
                self._control[0] |= 1 << at.number
