"""What the engine takes from the Unicorn library beyond its Python binding: called directly, a hook costs half as much.

Everything here is looked up by name when the engine starts; a build that lacks one of the names is refused with
one clear line (`UnsupportedLibrary`) and never run on half of what it needs.
"""

import ctypes
import importlib
import os
from typing import Any, Final

from unicorn.unicorn_const import (
    UC_ARCH_X86,
    UC_HOOK_CODE,
    UC_HOOK_INSN,
    UC_HOOK_INSN_INVALID,
    UC_HOOK_INTR,
    UC_HOOK_MEM_READ,
    UC_HOOK_MEM_WRITE,
    UC_MEM_WRITE,
    UC_MODE_64,
    UC_PROT_ALL,
)
from unicorn.unicorn_py3.unicorn import uclib

_binding: Any = importlib.import_module("unicorn")  # has no types
INSTALLED: Final[str] = _binding.__version__
NEEDED_VERSION: Final = "2.1.4"

INTERRUPT_HOOK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
EXIT_HOOK = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
INVALID_HOOK = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_void_p)
INVALID_OP_HOOK = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)
SYSCALL_HOOK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
CPUID_HOOK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
MEMORY_HOOK = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
)

HOOK_INTERRUPT: Final = UC_HOOK_INTR
HOOK_INVALID: Final = UC_HOOK_INSN_INVALID
HOOK_INSN: Final = UC_HOOK_INSN
HOOK_CODE: Final = UC_HOOK_CODE
HOOK_MEMORY: Final = UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE
MEM_WRITE: Final = UC_MEM_WRITE

EVERYWHERE: Final = (1, 0)
"""The span of a hook for any address: its beginning is behind its end."""

EXPORTS: Final = (
    "uc_hook_add",
    "uc_hook_del",
    "uc_emu_start",
    "uc_emu_stop",
    "cpu_exit",
    "x86_cpu_exec_interrupt_x86_64",
    "x86_cpu_do_interrupt_x86_64",
    "do_interrupt_x86_hardirq_x86_64",
    "tlb_flush_x86_64",
    "tlb_flush_page_x86_64",
    "tb_flush_x86_64",
    "tb_invalidate_phys_range_x86_64",
    "cpu_loop_exit_noexc_x86_64",
    "cpu_cc_compute_all_x86_64",
    "raise_exception_err_x86_64",
    "cpu_x86_update_cr0_x86_64",
    "cpu_x86_update_cr4_x86_64",
    "cpu_x86_update_dr7_x86_64",
    "cpu_loop_exit_restore_x86_64",
    "tcg_gen_callN_x86_64",
    "update_fp_status_x86_64",
    "update_mxcsr_status_x86_64",
)


CODE_BUFFER: Final = 256 << 20
"""Bytes for translated code: what a guest's code can make the host spend on it. Unicorn's own default is 1 GiB."""


def new_instance() -> Any:
    """A fresh 64-bit x86 CPU (unicorn.Uc)."""
    uc = _binding.Uc(UC_ARCH_X86, UC_MODE_64)
    uc.ctl_set_tcg_buffer_size(CODE_BUFFER)
    return uc


def error_text(error: int) -> str:
    """What Unicorn calls this error."""
    return str(_binding.UcError(error))


class UnsupportedLibrary(RuntimeError):
    """This build of Unicorn is not the one the engine knows."""


class UnicornLibrary:
    """The library's functions for one Unicorn instance. `uc` is its handle, `cpu` the address of its CPUState."""

    def __init__(self, uc: Any) -> None:
        if not INSTALLED.startswith(NEEDED_VERSION):
            raise UnsupportedLibrary(f"unicorn {INSTALLED} is installed, {NEEDED_VERSION} is needed")
        missing = [name for name in EXPORTS if not hasattr(uclib, name)]
        if missing:
            raise UnsupportedLibrary(f"unicorn {INSTALLED} does not export {', '.join(missing)}")
        self.uc = ctypes.c_void_p(uc._uch.value)
        self.cpu = ctypes.c_void_p()
        self._kept: list[Any] = []  # callbacks live as long as the instance
        self._tlb_flush = uclib.tlb_flush_x86_64
        self._tlb_flush_page = uclib.tlb_flush_page_x86_64
        self._tlb_flush_page.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
        self._invalidate = uclib.tb_invalidate_phys_range_x86_64
        self._invalidate.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64]
        self._invalidate.restype = None
        self._update_cr0 = uclib.cpu_x86_update_cr0_x86_64
        self._update_cr4 = uclib.cpu_x86_update_cr4_x86_64
        for function in (self._update_cr0, self._update_cr4):
            function.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
            function.restype = None
        self.cc_compute_all = uclib.cpu_cc_compute_all_x86_64
        self.cc_compute_all.argtypes = [ctypes.c_void_p, ctypes.c_int]
        self.cc_compute_all.restype = ctypes.c_uint32

    def map_memory(self, address: int, size: int, physical: int = 0) -> None:
        """Show `size` bytes at `address` of this process to the emulated CPU, from its address `physical` on."""
        region = (
            ctypes.c_uint64(physical),
            ctypes.c_uint64(size),
            ctypes.c_uint32(UC_PROT_ALL),
            ctypes.c_void_p(address),
        )
        error = uclib.uc_mem_map_ptr(self.uc, *region)
        if error:
            raise UnsupportedLibrary(f"unicorn cannot map {size} bytes: {error_text(error)}")

    def context_size(self) -> int:
        """Bytes of a context that Unicorn saves."""
        return int(uclib.uc_context_size(self.uc))

    def tlb_flush(self) -> None:
        """Forget every translation."""
        self._tlb_flush(self.cpu)

    def tlb_flush_page(self, va: int) -> None:
        """Forget the translation of one page."""
        self._tlb_flush_page(self.cpu, va)

    def update_cr0(self, env: int, value: int) -> None:
        """Load CR0, with what the CPU derives of it."""
        self._update_cr0(env, value)

    def update_cr4(self, env: int, value: int) -> None:
        """Load CR4, with what the CPU derives of it."""
        self._update_cr4(env, value)

    def tb_flush(self) -> None:
        """Forget all translated code. Only while no guest code runs, not even below a hook."""
        uclib.tb_flush_x86_64(self.cpu)

    def invalidate_code(self, maddr: int, size: int) -> None:
        """Forget the code translated from the machine addresses [maddr, maddr + size)."""
        self._invalidate(self.uc, maddr, maddr + size)

    def emu_stop(self) -> None:
        """Leave emulation at the next boundary. Only from within a hook (an asynchronous stop corrupts the guest)."""
        uclib.uc_emu_stop(self.uc)

    def emu_start(self, rip: int) -> int:
        """Run from `rip` until a hook stops it; returns Unicorn's error number."""
        return int(uclib.uc_emu_start(self.uc, ctypes.c_uint64(rip), ctypes.c_uint64(2**64 - 1), 0, 0))

    def add_hook(self, kind: int, callback: Any, instruction: int | None = None) -> int:
        """Install a C callback; `instruction` is the UC_X86_INS_… of a HOOK_INSN. Returns its handle."""
        self._kept.append(callback)
        extra = () if instruction is None else (ctypes.c_int(instruction),)
        return self._add(kind, callback, None, extra)

    def remove_hook(self, handle: int) -> None:
        """Removes a hook; it is not called any more."""
        uclib.uc_hook_del(self.uc, ctypes.c_size_t(handle))

    def add_code_hook(
        self, kind: int, code_address: int, data_address: int, instruction: int | None = None
    ) -> int:
        """Install machine code at `code_address` as a callback that gets `data_address`. Returns its handle."""
        extra = () if instruction is None else (ctypes.c_int(instruction),)
        return self._add(kind, ctypes.c_void_p(code_address), ctypes.c_void_p(data_address), extra)

    def add_memory_hook(self, callback: Any, first: int, last: int) -> int:
        """A MEMORY_HOOK, kept by the caller, for accesses that begin at the machine addresses [first, last]."""
        return self._add(HOOK_MEMORY, callback, None, (), (first, last))

    def _add(
        self, kind: int, callback: Any, data: Any, extra: tuple[Any, ...], span: tuple[int, int] = EVERYWHERE
    ) -> int:
        handle = ctypes.c_size_t()
        bounds = map(ctypes.c_uint64, span)
        error = uclib.uc_hook_add(self.uc, ctypes.byref(handle), kind, callback, data, *bounds, *extra)
        if error:
            raise UnsupportedLibrary(f"unicorn refused a hook of kind {kind:#x}: error {error}")
        return handle.value


def library_path() -> str:
    """The file of the library."""
    return str(uclib._name)


def exported(name: str) -> int:
    """The address of one of the library's functions."""
    return int(ctypes.cast(getattr(uclib, name), ctypes.c_void_p).value or 0)


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


def peek(address: int, size: int) -> bytes:
    """This process's own memory, or nothing where it is not mapped (a plain access would end the process)."""
    buffer = ctypes.create_string_buffer(size)
    local = _IoVec(ctypes.cast(buffer, ctypes.c_void_p), size)
    remote = _IoVec(address, size)
    libc = ctypes.CDLL(None)
    libc.process_vm_readv.restype = ctypes.c_ssize_t
    done = libc.process_vm_readv(os.getpid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    return buffer.raw if done == size else b""
