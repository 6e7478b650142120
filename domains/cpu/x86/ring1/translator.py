"""The translator: looks at each block of the guest's code before its first run, and puts a trap where none would be.

A block is what Unicorn translates at once. While it reads the guest's instructions, the first byte of each sensitive one is HLT,
which traps outside ring 0; then the byte is as it was. So the guest's memory is never seen changed, the call-out is in the
translated code alone, and code that is written anew is looked at anew. What it traps on is decoded from memory (ring1/exits).
In ring 3 only what would tell of the monitor is replaced.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from domains.cpu.x86.decode import MAX_LENGTH, capstone_binding
from domains.cpu.x86.emulator.cpu_state import HF_CPL, HF_CS32
from domains.cpu.x86.emulator.translation import Block, Translator
from domains.cpu.x86.paging import GuestFault, NotMapped
from domains.cpu.x86.registers import U32
from domains.cpu.x86.ring1.paging import Ring1Paging
from domains.cpu.x86.ring1.sensitive import IN_EVERY_RING, SENSITIVE
from hypervisor.machine.memory import MachineMemory
from hypervisor.public.types import PAGE_SIZE

TRAP: Final = 0xF4
"""HLT."""
LONGEST: Final = 48
"""Instructions in a block."""
RINGED: Final = ("cs", "ss")
ENDS: Final = ("j", "call", "ret", "loop", "iret", "int", "lcall", "ljmp", "hlt")


class Ring1Translator(Translator):
    """One vCPU's. `counters`: blocks, instructions, and what was replaced by its name. `untranslated`: what is never replaced."""

    def __init__(
        self, memory: MachineMemory, paging: Ring1Paging, untranslated: frozenset[str] = frozenset()
    ) -> None:
        self._untranslated = untranslated
        self._octets = memory.octets
        self._paging = paging
        self._disassembler: Any = capstone_binding.Cs(
            capstone_binding.CS_ARCH_X86, capstone_binding.CS_MODE_32
        )
        self._changed: list[tuple[int, int]] = []
        self.counters: Counter[str] = Counter()

    def before(self, block: Block) -> tuple[int, bool]:
        """Look at a block."""
        self.after()
        if not block.hflags & HF_CS32:  # 16-bit code runs as it is
            return block.most, False
        count = 0
        for at, name, operands in self._instructions(block.pc):
            count += 1
            kernel = block.hflags & HF_CPL != HF_CPL
            if name not in self._untranslated and is_replaced(name, operands, kernel=kernel):
                self._replace(at, name)
            if name.startswith(ENDS) or count >= min(block.most, LONGEST):
                break
        self.counters["blocks"] += 1
        self.counters["instructions"] += count
        return min(block.most, count or 1), bool(self._changed)

    def after(self) -> None:
        """The block is translated: what was changed is as it was."""
        for at, octet in self._changed:
            self._octets[at] = octet
        self._changed.clear()

    def _instructions(self, pc: int) -> Iterator[tuple[int, str, str]]:
        """Address, name and operands of the instructions from `pc` on, up to the first that reaches into the next page
        (unless it is the only one), or that is none.
        """
        at = pc & U32
        try:
            octets = self._paging.read(at, PAGE_SIZE - (at & PAGE_SIZE - 1), fetch=True)
            first = next(self._disassembler.disasm_lite(octets, at, 1), None)
            if first is None and len(octets) < MAX_LENGTH:
                octets += self._paging.read(at + len(octets) & U32, MAX_LENGTH - len(octets), fetch=True)
        except (GuestFault, NotMapped):
            return
        for address, _, name, operands in self._disassembler.disasm_lite(octets, at):
            yield address, name.split()[-1], operands

    def _replace(self, at: int, name: str) -> None:
        machine = self._paging.translate(at, fetch=True)
        self._changed.append((machine, self._octets[machine]))
        self._octets[machine] = TRAP
        self.counters[f"replaced {name}"] += 1


def is_replaced(name: str, operands: str, *, kernel: bool) -> bool:
    """Whether the translator puts a trap in the place of this instruction."""
    if name in IN_EVERY_RING:
        return True
    if not kernel:
        return False
    return name in SENSITIVE or (name in ("push", "mov") and operands.split(", ")[-1] in RINGED)
