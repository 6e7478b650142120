"""Turns: the vCPUs of one domain on one emulated CPU.

The core lets one vCPU of a domain run at a time, the one that it answered last. A vCPU that asks while it is another's turn
next leaves emulation; what is to be done with its answer is kept (`X86Vcpu.rest`), and its registers with it:

    vCPU 0  guest ──exit──► asks ─ ─ ─ ─ ─ ─ TurnOver: emulation ends ┐                 ┌► rest(answer) ──► guest
    the CPU's registers     0                                         └─► 1 ............┘ 0
    vCPU 1                                          an answer came ───────► rest(answer) ──► guest ──exit──► asks

Two emulated CPUs in a process would not do: what one has translated stays in force after the other's store, and neither's
locked instructions are atomic to the other. On one CPU both hold by themselves. Its memory of translations is forgotten at each
change of turns, so a vCPU's own flush is all that a remote flush asks for.
"""

import ctypes
from typing import Final

from domains.cpu.gate import Gate
from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary
from domains.cpu.x86.pv.vcpu import X86Vcpu

CONTEXT_HEADER: Final = 40
"""Bytes of Unicorn's saved context before the registers."""


class Turns:
    """`current`: the vCPU whose registers the emulated CPU has. `vcpus`: all of the domain, by number."""

    def __init__(self, gate: Gate, vcpus: list[X86Vcpu], library: UnicornLibrary) -> None:
        self.vcpus = vcpus
        self.current = vcpus[0]
        self._gate = gate
        self._library = library
        self._env = self.current.cpu.env
        self._size = library.context_size() - CONTEXT_HEADER
        self._registers = [ctypes.create_string_buffer(self._size) for _ in vcpus[1:] and vcpus]

    def switch_to(self, v: X86Vcpu) -> None:
        """Give the emulated CPU the registers of `v`. Only outside emulation."""
        old = self.current
        if v is old:
            return
        old.breakpoints.leave()
        ctypes.memmove(self._registers[old.vcpu_id], self._env, self._size)
        ctypes.memmove(self._env, self._registers[v.vcpu_id], self._size)
        self.current = v
        v.breakpoints.changed()
        self._library.tlb_flush()

    def copy_to_all(self) -> None:
        """Every vCPU has the registers that the emulated CPU has now."""
        for registers in self._registers:
            ctypes.memmove(registers, self._env, self._size)

    def wait(self) -> None:
        """Wait until a vCPU is answered that runs its guest then; it is the current one."""
        while self.current.rest is not None:
            vcpu_id, result, effects = self._gate.receive()
            v = self.vcpus[vcpu_id]
            self.switch_to(v)
            rest, v.rest = v.rest, None
            assert rest is not None, "an answer to a vCPU that asked nothing"
            rest(result, effects)
