"""What the systems with an unported kernel have in common: the machine's memory, the P2M, the board, the observer's hooks."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any, Final

from domains.cpu.x86.decode import MAX_LENGTH, capstone_binding
from domains.cpu.x86.emulator.cpu_state import CpuState
from domains.cpu.x86.emulator.emulation import Emulation
from domains.cpu.x86.emulator.unicorn_library import HOOK_CODE, UnicornLibrary
from domains.lab.board import Devices, Ports
from domains.lab.image import BASE, Image, kernel_image
from domains.lab.systems.scatter import GUEST_PAGES, MACHINE_PAGES, machine_address, machine_frame
from domains.lab.systems.system import Crashed, loadable, pages
from domains.lab.trace import Exits, Observer
from hypervisor.machine.memory import MachineMemory, create_memfd
from hypervisor.machine.paging import PAGE_PRESENT, PAGE_RW, PAGE_USER, TABLE_ENTRIES
from hypervisor.public.types import PAGE_SHIFT

P2M_TOP: Final = 1
RIGHTS: Final = PAGE_PRESENT | PAGE_RW | PAGE_USER
STACK: Final = 0x90000
CODE_HOOK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)


class Unported:
    """A machine whose guest has GUEST_PAGES pages; `direct`: they are the machine's first, and there is no P2M.

    `image`: another kernel than the usual.
    """

    def __init__(self, image: Image | None = None, *, direct: bool = False) -> None:
        self.image = image or kernel_image("bare")
        self.memory = MachineMemory(MACHINE_PAGES)
        self.memfd = create_memfd("laboratory", MACHINE_PAGES)
        self.memory.map(self.memfd, 0, MACHINE_PAGES, 0)
        self.direct = direct
        if not direct:
            write_p2m(self.memory)
        self.devices: Ports = Devices(self.read, self.write)

    def machine(self, address: int) -> int:
        """Where the guest's physical address lies in the machine."""
        return address if self.direct else machine_address(address)

    def read(self, address: int, size: int) -> bytes:
        """The guest's memory; within a page."""
        return self.memory.read(self.machine(address), size)

    def write(self, address: int, data: bytes) -> None:
        """The same; within a page."""
        self.memory.write(self.machine(address), data)

    def load(self, programs: Sequence[str]) -> None:
        """The image, with these programs as its first processes."""
        for at, data in pages(loadable(self.image, programs)):
            self.write(BASE + at, data)

    def close(self) -> None:
        """See System."""
        os.close(self.memfd)
        self.memory.close()


def write_p2m(memory: MachineMemory) -> None:
    """The P2M's tables, four levels, in the machine's frames from P2M_TOP on."""
    tables = GUEST_PAGES // TABLE_ENTRIES
    top, third, second, first = range(P2M_TOP, P2M_TOP + 4)
    memory.page(top)[0] = third << PAGE_SHIFT | RIGHTS
    memory.page(third)[0] = second << PAGE_SHIFT | RIGHTS
    for number in range(tables):
        memory.page(second)[number] = first + number << PAGE_SHIFT | RIGHTS
    for page in range(GUEST_PAGES):
        entry = machine_frame(page) << PAGE_SHIFT | RIGHTS
        memory.page(first + page // TABLE_ENTRIES)[page % TABLE_ENTRIES] = entry


class Describer:
    """Tells a symbol and an instruction's text for an address of the guest's code."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._disassembler: Any = capstone_binding.Cs(
            capstone_binding.CS_ARCH_X86,
            capstone_binding.CS_MODE_32 if image.bits == 32 else capstone_binding.CS_MODE_64,
        )
        self._disassembler.syntax = capstone_binding.CS_OPT_SYNTAX_ATT
        self._known: dict[int, tuple[str, str]] = {}

    def __call__(self, address: int) -> tuple[str, str]:
        """(symbol, text)."""
        if address not in self._known:
            at = address - BASE
            found = next(self._disassembler.disasm(self._image.data[at : at + MAX_LENGTH], address, 1), None)
            text = f"{found.mnemonic} {found.op_str}".strip() if found is not None else "?"
            self._known[address] = self._image.nearest(address), text
        return self._known[address]


def attach(
    observer: Observer, library: UnicornLibrary, cpu: CpuState, image: Image, emulation: Emulation
) -> Exits:
    """Let the observer see each instruction of this CPU. Returns the counter that tells it of exits."""
    observer.cpu, observer.describe = cpu, Describer(image)
    observer.give_up = lambda: emulation.keep(Crashed("the kernel does not come to an end"))
    library.add_hook(HOOK_CODE, CODE_HOOK(observer.instruction))
    return Exits(observer.exit)
