"""The end of a slice: how the core reaches guest code that runs, between two of its instructions and nowhere else.

The core writes the mailbox and sends SIGUSR1 (docs/contracts.md). The signal's handler is machine code, for one in Python
would wait until emulation ends. It asks Unicorn for a hardware interrupt, as a device would; at the start of the next block
Unicorn calls what its CPU model does with one, and that is here: emulation ends, and the engine looks at the mailbox.

    handler:                            interrupt:                       rdi = CPUState
      movabs $CPUState, %rdi              movl   $0, INTERRUPT_REQUEST(%rdi)
      movl   $2, INTERRUPT_REQUEST(%rdi)  movabs $uc, %rdi
      movabs $stepping, %rax              movabs $uc_emu_stop, %rax
      cmpb   $0, (%rax); jne 1f           push   %rcx; call *%rax; pop %rcx
      movabs $cpu_exit, %rax              xor    %eax, %eax; ret         not a vector that the CPU should deliver
      jmp    *%rax
    1: ret

No signal is lost: the request stays until `interrupt` clears it, and Unicorn looks at it when emulation begins, after each
exception, and, once cpu_exit has set its flags, at the start of a block.

Unicorn tests those flags after every load and store, too, in the middle of an instruction, which then runs twice: a stop from
outside (`uc_emu_stop` by another thread, a time limit) corrupts the guest. `no_exit_request`, a switch that it has for blocks of
ARM code that must not be left, keeps these tests out of the code it generates. So a stop is exact, and memory access cheaper.

With a hook on every instruction (breakpoints) Unicorn relies on it for rip, which is not right at the start of a block: the
hook itself looks at the request then, and cpu_exit is not called.
"""

import ctypes
import mmap
import signal
import struct
from typing import Any, Final

from domains.cpu.x86.emulator.machine_code import jump_to, load_rax, load_rdi
from domains.cpu.x86.emulator.unicorn_library import (
    INSTALLED,
    UnicornLibrary,
    UnsupportedLibrary,
    exported,
    peek,
)

INTERRUPT_REQUEST: Final = 0x1C
"""Of a CPUState: u32. The value is CPU_INTERRUPT_HARD, or nothing."""
CPU_CLASS: Final = 0x81B0
"""Of a CPUState: the pointer to its CPUClass."""
EXEC_INTERRUPT: Final = 0x90
"""Of a CPUClass: the pointer to the function that takes an interrupt."""
NO_EXIT_REQUEST: Final = 0x7F2
"""Of uc_struct: bool."""
_INTERRUPT_AT: Final = 64
_STEPPING_AT: Final = 192


class StopStub:
    """Ends emulation at the next block after `handler`, a C function without arguments, ran: from `install` on that is on
    SIGUSR1, which the core sends, and on SIGALRM, the process's own timer.
    """

    def __init__(self, library: UnicornLibrary) -> None:
        cpu, uc = library.cpu.value or 0, library.uc.value or 0
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._octets = (ctypes.c_uint8 * mmap.PAGESIZE).from_buffer(self._page)
        self.handler = ctypes.addressof(self._octets)
        handler = load_rdi(cpu) + _set_request(2)
        handler += load_rax(self.handler + _STEPPING_AT) + bytes.fromhex("803800 750c")
        handler += jump_to("cpu_exit") + b"\xc3"
        interrupt = _set_request(0) + load_rdi(uc) + load_rax(exported("uc_emu_stop"))
        interrupt += bytes.fromhex("51 ffd0 59 31c0 c3")
        self._page[: len(handler)] = handler
        self._page[_INTERRUPT_AT : _INTERRUPT_AT + len(interrupt)] = interrupt
        take_requests(library, self.handler + _INTERRUPT_AT)

    def ask(self) -> None:
        """What SIGUSR1 does."""
        ctypes.CFUNCTYPE(None)(self.handler)()

    def stepping(self, on: bool) -> None:
        """A hook on every instruction looks at the request."""
        self._page[_STEPPING_AT] = on

    def install(self) -> None:
        """Let the signals do it, in this whole process, until another handler is set."""
        set_handler(self.handler)
        set_handler(self.handler, signal.SIGALRM)


def take_requests(library: UnicornLibrary, function: int) -> None:
    """From now on this CPU calls the C function at that address to take an interrupt, and never leaves a block within it."""
    cpu, uc = library.cpu.value or 0, library.uc.value or 0
    place = _pointer(cpu + CPU_CLASS) + EXEC_INTERRUPT
    if _pointer(place) != exported("x86_cpu_exec_interrupt_x86_64"):
        raise UnsupportedLibrary(f"unicorn {INSTALLED}: its CPU's interrupt function was not found")
    ctypes.c_uint64.from_address(place).value = function
    ctypes.c_bool.from_address(uc + NO_EXIT_REQUEST).value = True


def set_handler(address: int, number: signal.Signals = signal.SIGUSR1) -> None:
    """Let the C function at that address handle a signal, in this whole process, until another is set."""
    libc: Any = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal(int(number), ctypes.c_void_p(address))


def _pointer(address: int) -> int:
    """What lies there; 0 where nothing is."""
    return int.from_bytes(peek(address, 8), "little")


def _set_request(value: int) -> bytes:
    """movl $value, INTERRUPT_REQUEST(%rdi)"""
    return b"\xc7\x47" + struct.pack("<BI", INTERRUPT_REQUEST, value)
