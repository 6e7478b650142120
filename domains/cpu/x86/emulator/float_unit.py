"""The floating-point unit that guests see: Unicorn's, with float_code's routines in the place of what it does wrong.

One for all CPUs of a process (interposed).
"""

import ctypes
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from domains.cpu.x86.emulator.float_code import CODE, LABELS, tables
from domains.cpu.x86.emulator.interpose import Interposer
from domains.cpu.x86.emulator.unicorn_library import UnsupportedLibrary, exported

READERS: Final = (
    *("fnstsw", "fwait", "fstenv", "fsave", "fxsave"),
    *("fxrstor", "frstor", "fldenv", "fclex", "fninit"),
)
"""Helpers that look at, or write, the x87 status word or MXCSR: ours run first, then Unicorn's."""
OWN: Final = (
    *("f2xm1", "fsin", "fcos", "fprem", "fprem1", "fscale", "fyl2x", "fyl2xp1", "fpatan", "fptan", "fsincos"),
    *("fxtract", "ldmxcsr", "single_step", "rechecking_single_step"),
)
STRINGS: Final = ("pcmpestri", "pcmpistri", "pcmpestrm", "pcmpistrm")

CALLED: Final = (
    *(f"helper_{name}_x86_64" for name in READERS),
    "update_mxcsr_status_x86_64",
    "helper_single_step_x86_64",
    "tcg_gen_op3_x86_64",
    "tcg_gen_callN_x86_64",
    "cpu_loop_exit_restore_x86_64",
    "cpu_loop_exit_noexc_x86_64",
    "raise_exception_err_x86_64",
)
"""Functions of Unicorn's in the order of the table at the beginning of the code; then comes `ask`."""

REPLACED: Final = {
    **{f"helper_{name}_x86_64": f"new_{name}" for name in (*READERS, *OWN)},
    **{f"helper_{name}_xmm_x86_64": f"new_{name}" for name in STRINGS},
    "update_mxcsr_status_x86_64": "new_update",
    "tcg_gen_op3_x86_64": "new_op3",
    "helper_rsm_x86_64": "merge_mxcsr",
}
"""By what. RSM, which guests cannot execute, lends its place in Unicorn's list of functions that translated code may call."""

FP_FLAGS: Final = 0x30A
"""Of the CPUX86State: what softfloat has gathered for x87."""
SAVED_BYTES: Final = 0x738
"""Of the CPUX86State, up to the last XMM register."""


class FloatUnit:
    """float_code in memory, and in force."""

    def __init__(self, interposer: Interposer) -> None:
        if "sse4_2" not in Path("/proc/cpuinfo").read_text().split():
            raise UnsupportedLibrary("this host's CPU has no SSE4.2, which guests are promised")
        code = CODE + tables()
        size = -(-(LABELS["saved"] + SAVED_BYTES) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._page = mmap.mmap(-1, size, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._octets = (ctypes.c_uint8 * size).from_buffer(self._page)
        self._page[: len(code)] = code
        called = [exported(name) for name in CALLED]
        self._page[: 8 * len(called)] = struct.pack(f"<{len(called)}Q", *called)
        self._ask_at = 8 * len(called)
        self.base = ctypes.addressof(self._octets)
        for name, label in REPLACED.items():
            interposer.replace(name, self.base + LABELS[label])

    def set_stop(self, handler: int) -> None:
        """What ends the block that runs (StopStub.handler), for a change that must be in force with the next one."""
        struct.pack_into("<Q", self._octets, self._ask_at, handler)

    def gather(self, env: int) -> None:
        """Put the exceptions that softfloat has gathered where the guest sees them: the status word and MXCSR."""
        for label in ("merge_x87", "merge_mxcsr"):
            _routine(self.base + LABELS[label])(env)

    def reload(self, env: int) -> None:
        """The control word and MXCSR were written from outside: what follows from them is in force, and nothing gathered."""
        ctypes.c_uint8.from_address(env + FP_FLAGS).value = 0
        _routine(exported("update_fp_status_x86_64"))(env)
        _routine(self.base + LABELS["new_update"])(env)
        self._octets[LABELS["leaving"]] = 0  # no instruction of the guest has just done it

    def keep(self, env: int) -> None:
        """The guest goes on from here: the state to which an instruction that raises #XM goes back."""
        ctypes.memmove(self.base + LABELS["saved"], env, SAVED_BYTES)


def _routine(address: int) -> Callable[[int], None]:
    """A routine that gets `env`."""
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
