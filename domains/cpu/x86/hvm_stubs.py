"""Machine code for what a guest with nested paging does without an exit: hvm_listing, assembled.

    exceptions, INT n   delivered by the guest's own IDT, as the CPU does it (QEMU's do_interrupt); they may end by longjmp, which
                        must not cross a frame of Python's
    SYSCALL             which Unicorn leaves to its hook
    RDTSC, IN, OUT      answered at once
    events              the upcall's vector, as soon as the guest can take an interrupt
    SIGUSR1             the end of emulation (as in stop_stub)

One copy for each CPU. Its first words are addresses, filled in when it is made; then come its counters.
"""

import ctypes
import mmap
from typing import Any, Final

from domains.cpu.x86.cpu_state import CpuState
from domains.cpu.x86.registers import EXC_NAMES
from domains.cpu.x86.stop_stub import INTERRUPT_REQUEST
from domains.cpu.x86.unicorn_library import UnicornLibrary, exported

CODE: Final = bytes.fromhex(
    """
    89f681fe00010000733b83fe20730b488d05eafeffff48ff04f051488b3d3efeffffff1548feffff59488b0528feffffc780
    78150000ffffffffc7800c15000000000000c351ff155cfeffff594885c07501c3488b3dfefdffff0fb6f04889c248c1ea20
    ff252efeffff51ff153ffeffff5984c07513be0600000048ff05aefeffff51e892ffffff59e89bffffffb801000000c35348
    8b1dbcfdfffff68350020000010f8427010000f783b0000000004000000f841701000048ff0518feffff4889df8bb3a80000
    00ff15c1fdffff8b8bac00000081e10004000009c88b8b8800000081e12af3feff09c848894358488b8b800000004883c102
    48894b088b8bf8120000f7d121c889c181e1d508000048898b98000000c783a80000000100000089c1c1e90983e102f7d9ff
    c1898bac000000252af3ffff83c802488983880000008b83dc12000025fcff00008983d000000048c783d800000000000000
    c783e0000000ffffffffc783e4000000009ba00083c0088983e800000048c783f000000000000000c783f8000000ffffffff
    c783fc0000000093c000488b8be81200008b83b0000000a9008000007507488b8bf012000083e0bc0d308000008983b00000
    004883e90248898b800000005bc35b488b3d80fcffffbe0600000031d2ff25b3fcffff4883ec18bf010000004889e6ff15a9
    fcffff4869042400ca9a3b4803442408480305bdfcffff488b0d46fcffff89c248891148c1e8204889411048ff05c2fcffff
    b8010000004883c418c3e81a00000048ff05b4fcffffb8ffffffffc3e80800000048ff05aafcffffc3488b3d02fcffff8b87
    b000000083e0038b8f88000000c1e90c83e10339c87701c358be0d00000031d2ff251afcffff488b3ddbfbffff48c70540fc
    ffff01000000c7471c02000000ff25ebfbffffc7471c00000000488b050dfcffff48833d1dfcffff00755b8038000f848200
    00008b35fcfbffff85f67478488b1589fbfffff7828800000000020000745ef782b000000008000000755248ff05f2fbffff
    c7471c0200000051e82efdffff4889c7ba01000000ff156ffbffff59b801000000c348c705b5fbffff000000008038007407
    c7471c0200000051488b3d39fbffffff154bfbffff5931c0c3c7471c0200000031c0c3
    """
)
"""The listing, assembled, from its first routine on."""
CODE_AT: Final = 0x1A8

WORDS: Final = (
    *(
        "env",
        "cpu",
        "uc",
        "do_interrupt",
        "hardirq",
        "emu_stop",
        "cpu_exit",
        "compute_flags",
        "raise_exception",
    ),
    *("clock_gettime", "on_exit", "on_invalid", "upcall_pending", "vector", "tsc_offset", "asked"),
)
"""The words before the counters, in their order."""
COUNTERS: Final = {
    "syscalls": 0x80,
    "interrupts": 0x88,
    "tsc_reads": 0x90,
    "port_reads": 0x98,
    "port_writes": 0xA0,
    "exceptions": 0xA8,
}
ROUTINES: Final = {
    "new_interrupt": 0x1A8,
    "new_invalid": 0x212,
    "new_syscall": 0x23C,
    "undefined": 0x379,
    "new_rdtsc": 0x38D,
    "new_in": 0x3D8,
    "new_out": 0x3EA,
    "ask": 0x426,
    "on_request": 0x445,
}
"""Where the routines lie."""
FUNCTIONS: Final = {
    "do_interrupt": "x86_cpu_do_interrupt_x86_64",
    "hardirq": "do_interrupt_x86_hardirq_x86_64",
    "emu_stop": "uc_emu_stop",
    "cpu_exit": "cpu_exit",
    "compute_flags": "cpu_cc_compute_all_x86_64",
    "raise_exception": "raise_exception_err_x86_64",
}
"""The library's, by word."""
REQUEST_HARD: Final = 2


class HvmStubs:
    """The code in memory, for one CPU. Python's part (`on_exit`, `on_invalid`) is set before guest code runs."""

    def __init__(self, library: UnicornLibrary, cpu: CpuState, tsc_offset: int) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._octets = (ctypes.c_uint8 * mmap.PAGESIZE).from_buffer(self._page)
        self._page[CODE_AT : CODE_AT + len(CODE)] = CODE
        self._words = memoryview(self._octets).cast("B")[:CODE_AT].cast("Q")
        self._base = ctypes.addressof(self._octets)
        self._no_event = ctypes.c_uint8(0)
        self._kept: list[Any] = []
        clock: Any = ctypes.CDLL(None).clock_gettime
        self._set("env", cpu.env)
        self._set("cpu", library.cpu.value or 0)
        self._set("uc", library.uc.value or 0)
        self._set("clock_gettime", ctypes.cast(clock, ctypes.c_void_p).value or 0)
        self._set("upcall_pending", ctypes.addressof(self._no_event))
        self._set("tsc_offset", tsc_offset & (1 << 64) - 1)
        for word, function in FUNCTIONS.items():
            self._set(word, exported(function))
        self._request = ctypes.c_uint32.from_address((library.cpu.value or 0) + INTERRUPT_REQUEST)

    def _set(self, word: str, value: int) -> None:
        self._words[WORDS.index(word)] = value

    def address(self, routine: str) -> int:
        """Where this routine lies."""
        return self._base + ROUTINES[routine]

    def call_back(self, word: str, function: Any) -> None:
        """`on_exit` or `on_invalid` is this C callback from now on."""
        self._kept.append(function)
        self._set(word, ctypes.cast(function, ctypes.c_void_p).value or 0)

    def ask(self) -> None:
        """What SIGUSR1 does."""
        ctypes.CFUNCTYPE(None)(self.address("ask"))()

    def watch(self, pending: int) -> None:
        """The vCPU's evtchn_upcall_pending lies at this address of this process."""
        self._set("upcall_pending", pending)

    def set_vector(self, vector: int) -> None:
        """Events come by this vector; 0: by none."""
        self._set("vector", vector)

    def set_dr7(self, value: int) -> None:
        """DR7, and the breakpoints that it enables."""
        update = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64)(
            exported("cpu_x86_update_dr7_x86_64")
        )
        update(self._words[WORDS.index("env")], value)

    def request(self) -> None:
        """An event is pending: it is delivered as soon as the guest can take it. Only while no block of the guest's runs."""
        self._request.value = REQUEST_HARD

    def counts(self) -> dict[str, int]:
        """What was done without an exit, by how often; exceptions by their names."""
        named = {name: self._words[at // 8] for name, at in COUNTERS.items() if name != "exceptions"}
        first = COUNTERS["exceptions"] // 8
        return named | {name: self._words[first + vector] for vector, name in EXC_NAMES.items()}
