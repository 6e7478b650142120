"""Machine code for what an HVM guest does without an exit: hvm/listing, assembled.

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

from domains.cpu.x86.emulator.cpu_state import CpuState
from domains.cpu.x86.emulator.stop_stub import INTERRUPT_REQUEST
from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary, exported
from domains.cpu.x86.registers import EXC_NAMES

CODE: Final = bytes.fromhex(
    """
    89f681fe000100000f83a800000083fe207344488d05e6feffff48ff04f0488b3d2bfeffff83fe0d740583fe0b7528f787b0
    00000000400000741c8b8708150000a802741289c283e207d1e883e0f809d089870815000051488b3df1fdffff83bf0c1500
    0000741848ff8f8000000083fe03740c83fe04740748ff8f800000008b054afeffff8987a0150000488b3dc5fdffffff15cf
    fdffff59488b05affdffffc78078150000ffffffffc7800c15000000000000c351ff15e3fdffff594885c07501c3488b3d85
    fdffff0fb6f04889c248c1ea20c787a015000000000000ff25abfdffff51ff15bcfdffff5989c685f6741383fe06751948ff
    0531feffff51e852ffffff59e88fffffffb801000000c3e884ffffff488b3d33fdffff31d2ff256bfdffff53488b1d23fdff
    fff68350020000010f8427010000f783b0000000004000000f841701000048ff0587fdffff4889df8bb3a8000000ff1528fd
    ffff8b8bac00000081e10004000009c88b8b8800000081e12af3feff09c848894358488b8b800000004883c10248894b088b
    8bf8120000f7d121c889c181e1d508000048898b98000000c783a80000000100000089c1c1e90983e102f7d9ffc1898bac00
    0000252af3ffff83c802488983880000008b83dc12000025fcff00008983d000000048c783d800000000000000c783e00000
    00ffffffffc783e4000000009ba00083c0088983e800000048c783f000000000000000c783f8000000ffffffffc783fc0000
    000093c000488b8be81200008b83b0000000a9008000007507488b8bf012000083e0bc0d308000008983b00000004883e902
    48898b800000005bc35b488b3de7fbffffbe0600000031d2ff251afcffff4883ec18bf010000004889e6ff1510fcffff4869
    042400ca9a3b480344240848030524fcffff488b0dadfbffff89c248891148c1e8204889411048ff0531fcffffb801000000
    4883c418c3e81a00000048ff0523fcffffb8ffffffffc3e80800000048ff0519fcffffc3488b3d69fbffff8b87b000000083
    e0038b8f88000000c1e90c83e10339c87701c358be0d00000031d2ff2581fbffff488b3d42fbffff48c705a7fbffff010000
    00c7471c02000000ff2552fbffffc7471c00000000488b0574fbffff48833d84fbffff00755b8038000f84820000008b3563
    fbffff85f67478488b15f0fafffff7828800000000020000745ef782b000000008000000755248ff0561fbffffc7471c0200
    000051e80efdffff4889c7ba01000000ff15d6faffff59b801000000c348c7051cfbffff000000008038007407c7471c0200
    000051488b3da0faffffff15b2faffff5931c0c3c7471c0200000031c0c3
    """
)
"""The listing, assembled, from its first routine on."""
CODE_AT: Final = 0x1B0

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
    *(
        "clock_gettime",
        "on_exit",
        "on_invalid",
        "upcall_pending",
        "vector",
        "tsc_offset",
        "asked",
        "exits_of",
    ),
)
"""The words before the counters, in their order."""
COUNTERS: Final = {
    "syscalls": 0x88,
    "interrupts": 0x90,
    "tsc_reads": 0x98,
    "port_reads": 0xA0,
    "port_writes": 0xA8,
    "exceptions": 0xB0,
}
ROUTINES: Final = {
    "new_interrupt": 0x1B0,
    "new_invalid": 0x295,
    "new_syscall": 0x2D5,
    "undefined": 0x412,
    "new_rdtsc": 0x426,
    "new_in": 0x471,
    "new_out": 0x483,
    "ask": 0x4BF,
    "on_request": 0x4DE,
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

    def set_exits(self, exceptions: int) -> None:
        """Which exceptions are exits, by the bits of SVM's field."""
        self._set("exits_of", exceptions)

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
