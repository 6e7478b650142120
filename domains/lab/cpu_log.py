"""What the emulated CPU does about its TLB, as it does it: misses, the page-table entries that it reads, and what it forgets.

The library's functions for these are called by way of ours, which notes it and goes on to the library's (emulator/interpose).
One log serves all CPUs of the process; it is on for as long as something is measured.

     0    cursor: where the next record goes; `end`: where there is no room for one. Both 0: the log is off
    16    the library's functions
    64    for each: mov cursor(%rip), %rax; cmp end(%rip), %rax; jae 1f
          movq $number, (%rax); mov %rsi, 8(%rax); add $16, %rax; mov %rax, cursor(%rip); 1: jmp *function(%rip)
"""

from __future__ import annotations

import ctypes
import functools
import struct
from enum import IntEnum
from typing import Final, NamedTuple

from domains.cpu.x86.emulator.interpose import Interposer
from domains.cpu.x86.emulator.machine_code import CodePage
from domains.cpu.x86.emulator.unicorn_library import exported
from domains.lab.image import LabError
from domains.lab.trace import Observer


class What(IntEnum):
    """What the CPU did."""

    FILL = 0
    """The TLB lacks a page: its tables are walked."""
    READ = 1
    """An entry of a page table is read."""
    LOAD_CR3 = 2
    """An instruction loads CR3, which empties the TLB."""
    FLUSH_PAGE = 3
    """One page is dropped from it."""


class Record(NamedTuple):
    """`address`: a linear one of FILL and FLUSH_PAGE, the CPU's physical one of READ, what is loaded of LOAD_CR3."""

    what: What
    address: int


FUNCTIONS: Final = {
    What.FILL: "x86_cpu_tlb_fill_x86_64",
    What.READ: "x86_ldq_phys_x86_64",
    What.LOAD_CR3: "cpu_x86_update_cr3_x86_64",
    What.FLUSH_PAGE: "tlb_flush_page_x86_64",
}
"""Each takes the CPU and the address."""
_RECORD: Final = struct.Struct("<2Q")
_CAPACITY: Final = 1 << 18
_CURSOR, _END, _FUNCTIONS, _CODE, _STEP = 0, 8, 16, 64, 64


class CpuLog:
    """See above; there is one (`cpu_log`)."""

    def __init__(self) -> None:
        self._page = CodePage()
        self._records = (ctypes.c_uint8 * (_CAPACITY * _RECORD.size))()
        interposer = Interposer()
        self._page.put(_FUNCTIONS, struct.pack("<4Q", *(exported(name) for name in FUNCTIONS.values())))
        for what, name in FUNCTIONS.items():
            at = _CODE + _STEP * what
            self._page.put(at, _code(at, what))
            interposer.replace(name, self._page.address + at)

    def start(self) -> None:
        """Empty it, and note what happens from now on."""
        first = ctypes.addressof(self._records)
        self._page.put(_CURSOR, struct.pack("<2Q", first, first + len(self._records)))

    def stop(self) -> list[Record]:
        """What has happened since `start`. LabError: too much did."""
        first = ctypes.addressof(self._records)
        cursor, end = struct.unpack("<2Q", ctypes.string_at(self._page.address, 16))
        self._page.put(_CURSOR, bytes(16))
        if cursor == end:
            raise LabError("more happened than the log has room for")
        noted = memoryview(self._records).cast("B")[: cursor - first]
        return [Record(What(what), address) for what, address in _RECORD.iter_unpack(noted)]


@functools.cache
def cpu_log() -> CpuLog:
    """This process's. It sees what CPUs do that are made after the first call."""
    return CpuLog()


def log_part(observer: Observer) -> list[Record]:
    """Have the log on for an observer's part; the list that is returned is filled in at its end."""
    log, records = cpu_log(), list[Record]()
    observer.begins = log.start
    observer.ends = lambda: records.extend(log.stop())
    return records


def walks(records: list[Record]) -> list[tuple[int, list[int]]]:
    """(linear address, addresses of the entries that were read) of each miss, in their order."""
    found: list[tuple[int, list[int]]] = []
    for what, address in records:
        if what == What.FILL:
            found.append((address, []))
        elif what == What.READ and found:
            found[-1][1].append(address)
    return found


def _code(at: int, what: What) -> bytes:
    """The machine code at `at` of the page."""
    code = b""

    def relative(operation: str, to: int) -> bytes:
        opcode = bytes.fromhex(operation)
        return opcode + struct.pack("<i", to - (at + len(code) + len(opcode) + 4))

    code += relative("488b05", _CURSOR)
    code += relative("483b05", _END)
    code += bytes.fromhex("7316") + bytes.fromhex("48c700") + struct.pack("<I", what)
    code += bytes.fromhex("48897008 4883c010")
    code += relative("488905", _CURSOR)
    return code + relative("ff25", _FUNCTIONS + 8 * what)
