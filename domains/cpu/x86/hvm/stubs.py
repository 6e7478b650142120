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
from domains.cpu.x86.emulator.interposed import interposed
from domains.cpu.x86.emulator.stop_stub import INTERRUPT_REQUEST
from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary, exported
from domains.cpu.x86.registers import EXC_NAMES

CODE: Final = bytes.fromhex(
    """
    89f681fe000100000f83d1010000488b3dfbfdffff31c0488705b2feffff85c00f851701000048870593feffff85c00f85b7
    00000083bf0c150000000f85fb00000083fe0e747483fe0d740e83fe07745383fe0b0f85e30000008b870815000085c0742f
    f787b0000000004000000f84c9000000a8020f84c100000089c283e207d1e883e0f809d0898708150000e9aa000000f787b0
    000000008000007571e9990000008b87b000000025000440003d00004000755ae982000000f787b000000000800000757648
    8d87b8000000b906000000f74014008000007406837810ff752e4883c018ffc975e9eb5131c0488705d3fdffff4829878000
    00008d46f683f8037739838f0815000001e925ffffff56488b3d08fdffffff158afdffff5e488b3deafcffff39c6741389c6
    c78778150000ffffffff31d2e9d700000083fe20730b488d05b7fdffff48ff04f05148c70577fdffff00000000488b3db0fc
    ffff83bf0c150000007412488b0548fdffff8b0048298780000000eb0b48c7053afdffff01000000488b0523fdffffc70000
    0000008b05f7fcffff8987a0150000488b3d72fcffffff157cfcffff48c70511fdffff0000000059488b0551fcffffc78078
    150000ffffffffc7800c1500000000000048c705e2fcffff00000000c348c705d6fcffff0000000048c705dbfcffff000000
    0051ff1564fcffff594885c07501c3488b3d06fcffff0fb6f04889c248c1ea20c787a01500000000000048c705a7fcffff01
    000000ff2521fcffff51ff1532fcffff5989c685f6741383fe06751948ff05e7fcffff51e8fefeffff59e863ffffffb80100
    0000c3e858ffffff488b3da9fbffff31d2ff25e1fbffff53488b1d99fbfffff68350020000010f8427010000f783b0000000
    004000000f841701000048ff053dfcffff4889df8bb3a8000000ff159efbffff8b8bac00000081e10004000009c88b8b8800
    000081e12af3feff09c848894358488b8b800000004883c10248894b088b8bf8120000f7d121c889c181e1d508000048898b
    98000000c783a80000000100000089c1c1e90983e102f7d9ffc1898bac000000252af3ffff83c802488983880000008b83dc
    12000025fcff00008983d000000048c783d800000000000000c783e0000000ffffffffc783e4000000009ba00083c0088983
    e800000048c783f000000000000000c783f8000000ffffffffc783fc0000000093c000488b8be81200008b83b0000000a900
    8000007507488b8bf012000083e0bc0d308000008983b00000004883e90248898b800000005bc35b488b3d5dfaffffbe0600
    000031d2ff2590faffff4883ec18bf010000004889e6ff1586faffff4869042400ca9a3b48034424084803059afaffff488b
    0d23faffff89c248891148c1e8204889411048ff05e7faffffb8010000004883c418c3e81a00000048ff05d9faffffb8ffff
    ffffc3e80800000048ff05cffaffffc3488b3ddff9ffff8b87b000000083e0038b8f88000000c1e90c83e10339c87701c358
    be0d00000031d2ff25f7f9ffff48833d3ffaffff007415488b05a6f9fffff680b00000000374054889c7ebd451ff1519faff
    ff59b801000000c3488b3d8bf9ffff48c705f0f9ffff01000000c7471c02000000ff259bf9ffffc7471c00000000488b05bd
    f9ffff48833dcdf9ffff0075758038000f849c0000008b35acf9ffff85f60f848e000000488b1535f9fffff7828800000000
    0200007474f782b000000008000000756848ff05e6f9ffffc7471c0200000051e8b1fcffff4889c7ba0100000048c705a6f9
    ffff01000000ff1510f9ffff48c70595f9ffff0000000059b801000000c348c7054bf9ffff000000008038007407c7471c02
    00000051488b3dcff8ffffff15e1f8ffff5931c0c3c7471c0200000031c0c3
    """
)
"""The listing, assembled, from its first routine on."""
CODE_AT: Final = 0x1F0

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
        "on_cpuid",
        "cpuid_faults",
        "on_doubt",
        "event",
        "int_length",
        "external",
        "behind",
        "given",
    ),
)
"""The words before the counters, in their order."""
COUNTERS: Final = {
    "syscalls": 0xC8,
    "interrupts": 0xD0,
    "tsc_reads": 0xD8,
    "port_reads": 0xE0,
    "port_writes": 0xE8,
    "exceptions": 0xF0,
}
ROUTINES: Final = {
    "new_interrupt": 0x1F0,
    "new_invalid": 0x41F,
    "new_syscall": 0x45F,
    "undefined": 0x59C,
    "new_rdtsc": 0x5B0,
    "new_in": 0x5FB,
    "new_out": 0x60D,
    "new_cpuid": 0x649,
    "ask": 0x676,
    "on_request": 0x695,
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
    """The code in memory, for one CPU. Python's part (`on_exit` and its like) is set before guest code runs."""

    def __init__(self, library: UnicornLibrary, cpu: CpuState, tsc_offset: int) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._octets = (ctypes.c_uint8 * mmap.PAGESIZE).from_buffer(self._page)
        self._page[CODE_AT : CODE_AT + len(CODE)] = CODE
        self._words = memoryview(self._octets).cast("B")[:CODE_AT].cast("Q")
        self._base = ctypes.addressof(self._octets)
        self._no_event = ctypes.c_uint32(0)
        self._kept: list[Any] = []
        clock: Any = ctypes.CDLL(None).clock_gettime
        self._set("env", cpu.env)
        self._set("cpu", library.cpu.value or 0)
        self._set("uc", library.uc.value or 0)
        self._set("int_length", interposed().int_length.address)
        self._set("clock_gettime", ctypes.cast(clock, ctypes.c_void_p).value or 0)
        self._set("upcall_pending", ctypes.addressof(self._no_event))
        self._set("event", ctypes.addressof(self._no_event))
        self.set_tsc_offset(tsc_offset)
        for word, function in FUNCTIONS.items():
            self._set(word, exported(function))
        self._request = ctypes.c_uint32.from_address((library.cpu.value or 0) + INTERRUPT_REQUEST)

    def _set(self, word: str, value: int) -> None:
        self._words[WORDS.index(word)] = value

    def address(self, routine: str) -> int:
        """Where this routine lies."""
        return self._base + ROUTINES[routine]

    def call_back(self, word: str, function: Any) -> None:
        """`on_exit`, `on_invalid`, `on_cpuid` or `on_doubt` is this C callback from now on."""
        self._kept.append(function)
        self._set(word, ctypes.cast(function, ctypes.c_void_p).value or 0)

    def set_tsc_offset(self, ns: int) -> None:
        """RDTSC reads the clock and adds this."""
        self._set("tsc_offset", ns & (1 << 64) - 1)

    def set_clock(self, function: int) -> None:
        """RDTSC asks the C function at that address, which is as clock_gettime, for the time."""
        self._set("clock_gettime", function)

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

    def set_event(self, address: int) -> None:
        """The event that the CPU delivers is noted at this address of this process, as long as its delivery lasts (Svm)."""
        self._set("event", address)

    def set_behind(self, length: int) -> None:
        """The exception that comes next is that of an instruction of so many bytes, and rip is behind it. What goes wrong in its
        delivery is told at the instruction's beginning.
        """
        self._set("behind", length)

    def take_behind(self) -> int:
        """What `set_behind` said of the event whose delivery has just been broken off; 0: nothing."""
        at = WORDS.index("behind")
        length, self._words[at] = self._words[at], 0
        return length

    @property
    def cpuid_faults(self) -> bool:
        """Whether CPUID is #GP but in ring 0."""
        return bool(self._words[WORDS.index("cpuid_faults")])

    @cpuid_faults.setter
    def cpuid_faults(self, value: bool) -> None:
        self._set("cpuid_faults", value)

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
