"""Hypercall stubs: one method per hypercall, named after it; arguments as public Structs, errors as XenError.

A stub copies its structures into guest memory, enters Xen, and updates the caller's structures with what
Xen wrote back, as C does with a pointer. It returns the hypercall's result; a negative one raises
XenError(Errno.X, "name of the hypercall"). A field that is itself a pointer (XEN_GUEST_HANDLE) is the
caller's to fill: `with hypercalls.arguments as area: va = area.push(...)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from domains.cpu.python_cpu import PythonCpu
from domains.kernel.arguments import ArgumentArea
from hypervisor.public.arch_x86.xen import trap_info
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.event_channel import (
    EVTCHNOP_bind_vcpu,
    EVTCHNOP_close,
    EVTCHNOP_send,
    EVTCHNOP_unmask,
)
from hypervisor.public.grant_table import GNTTABOP_copy
from hypervisor.public.layout import Struct
from hypervisor.public.sched import SCHEDOP_shutdown, sched_shutdown
from hypervisor.public.types import DomId, MAddr, Mfn, VAddr
from hypervisor.public.xen import DOMID_SELF, UVMF_INVLPG, Hypercall, mmu_update, mmuext_op, multicall_entry

EVENT_OPS_IN = frozenset((EVTCHNOP_send, EVTCHNOP_unmask, EVTCHNOP_close, EVTCHNOP_bind_vcpu))
"""Operations on event channels that have nothing to say but their result."""
KNOWN_ERRORS = frozenset(int(errno) for errno in Errno)


class Hypercalls:
    """`arguments` is where structures are put for Xen to read."""

    def __init__(self, cpu: PythonCpu, arguments: ArgumentArea) -> None:
        self._cpu = cpu
        self.arguments = arguments

    # --- the three ways to enter Xen -------------------------------------------------------------

    def _call(self, nr: int, *args: int) -> int:
        """Arguments that are all numbers."""
        result = self._cpu.hypercall(nr, *args)
        if result < 0:
            self._fail(nr, -result)
        return result

    def _call_with(self, nr: int, record: Struct, *before: int) -> int:
        """Numbers, then a pointer to a structure that Xen reads and may write; it is updated even when
        refused.
        """
        with self.arguments as area:
            va = area.push(record.pack())
            result = self._cpu.hypercall(nr, *before, va)
            left = record.unpack(self._cpu.load(va, record.sizeof))
        record.__dict__.update(left.__dict__)
        if result < 0:
            self._fail(nr, -result)
        return result

    def _call_in(self, nr: int, record: Struct, *before: int) -> int:
        """Numbers, then a pointer to a structure that Xen only reads."""
        with self.arguments as area:
            return self._call(nr, *before, area.push(record.pack()))

    def _call_array(
        self, nr: int, records: Sequence[Struct], before: tuple[int, ...] = (), after: tuple[int, ...] = ()
    ) -> int:
        """Numbers, a pointer to an array that Xen reads and writes, its length, more numbers."""
        if not records:
            return 0
        size = records[0].sizeof
        with self.arguments as area:
            va = area.push(b"".join([record.pack() for record in records]))
            result = self._cpu.hypercall(nr, *before, va, len(records), *after)
            raw = self._cpu.load(va, size * len(records))
        for i, record in enumerate(records):
            record.__dict__.update(record.unpack(raw, i * size).__dict__)
        if result < 0:
            self._fail(nr, -result)
        return result

    def _fail(self, nr: int, errno: int) -> None:
        name = Hypercall(nr).name
        if errno not in KNOWN_ERRORS:
            raise OSError(errno, f"{name} failed with an errno that Xen does not have")
        raise XenError(Errno(errno), name)

    # --- page tables and memory ------------------------------------------------------------------

    def hypercall_mmu_update(
        self, updates: Sequence[mmu_update] | npt.NDArray[np.void], foreigndom: int = DOMID_SELF
    ) -> int:
        """Perform updates in order (a list, or an array of mmu_update.dtype); how many were done. XenError
        at the first bad one.

        `foreigndom`: the frames' owner in bits 0-15, and in bits 16-31 the tables' owner + 1 (0: oneself).
        """
        raw = updates.tobytes() if isinstance(updates, np.ndarray) else b"".join([u.pack() for u in updates])
        with self.arguments as area:
            done = area.push(bytes(4))
            va = area.push(raw)
            self._call(Hypercall.mmu_update, va, len(raw) // mmu_update.sizeof, done, foreigndom)
            return int.from_bytes(self._cpu.load(done, 4), "little")

    def hypercall_mmuext_op(self, ops: Sequence[mmuext_op], foreigndom: int = DOMID_SELF) -> int:
        """Pins, base pointers, flushes, in order; how many were done. XenError at the first bad one."""
        with self.arguments as area:
            done = area.push(bytes(4))
            va = area.push(b"".join([op.pack() for op in ops]))
            self._call(Hypercall.mmuext_op, va, len(ops), done, foreigndom)
            return int.from_bytes(self._cpu.load(done, 4), "little")

    def hypercall_update_va_mapping(self, va: VAddr, entry: int, flags: int = UVMF_INVLPG) -> int:
        """Replace the L1 entry that maps `va` in the current page tables."""
        return self._call(Hypercall.update_va_mapping, va, entry, flags)

    def hypercall_update_va_mapping_otherdomain(self, va: VAddr, entry: int, flags: int, domid: DomId) -> int:
        """The same with a frame of `domid`."""
        return self._call(Hypercall.update_va_mapping_otherdomain, va, entry, flags, domid)

    def hypercall_memory_op(self, cmd: int, arg: Struct) -> int:
        """XENMEM_…; for reservations the number of extents done. `extent_start` points to an array of frame
        numbers.
        """
        return self._call_with(Hypercall.memory_op, arg, cmd)

    def hypercall_vm_assist(self, cmd: int, kind: int) -> int:
        """Switch VMASST_TYPE_… on or off."""
        return self._call(Hypercall.vm_assist, cmd, kind)

    # --- events, scheduling, time ----------------------------------------------------------------

    def hypercall_event_channel_op(self, cmd: int, op: Struct) -> int:
        """EVTCHNOP_… with its evtchn_… structure."""
        if cmd in EVENT_OPS_IN:
            return self._call_in(Hypercall.event_channel_op, op, cmd)
        return self._call_with(Hypercall.event_channel_op, op, cmd)

    def hypercall_sched_op(self, cmd: int, op: Struct | None = None) -> int:
        """SCHEDOP_…; block and yield take no structure."""
        if op is None:
            return self._call(Hypercall.sched_op, cmd, 0)
        return self._call_with(Hypercall.sched_op, op, cmd)

    def hypercall_shutdown(self, reason: int) -> int:
        """sched_op(SCHEDOP_shutdown); does not return when Xen accepts it."""
        return self.hypercall_sched_op(SCHEDOP_shutdown, sched_shutdown(reason=reason))

    def hypercall_set_timer_op(self, deadline: int) -> int:
        """One VIRQ_TIMER at system time `deadline` in nanoseconds; 0 cancels."""
        return self._call(Hypercall.set_timer_op, deadline)

    def hypercall_vcpu_op(self, cmd: int, vcpu: int, op: Struct | None = None) -> int:
        """VCPUOP_… on one of the domain's own vCPUs."""
        if op is None:
            return self._call(Hypercall.vcpu_op, cmd, vcpu, 0)
        return self._call_with(Hypercall.vcpu_op, op, cmd, vcpu)

    # --- grants ----------------------------------------------------------------------------------

    def hypercall_grant_table_op(self, cmd: int, ops: Sequence[Struct]) -> int:
        """GNTTABOP_…; each operation's outcome is in its own `status`."""
        return self._call_array(Hypercall.grant_table_op, ops, before=(cmd,))

    def hypercall_grant_copy(self, ops: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
        """GNTTABOP_copy for an array of gnttab_copy.dtype; the array as Xen left it, with the statuses."""
        with self.arguments as area:
            va = area.push(ops.tobytes())
            self._call(Hypercall.grant_table_op, GNTTABOP_copy, va, len(ops))
            return np.frombuffer(self._cpu.load(va, ops.nbytes), ops.dtype)

    # --- traps, callbacks, descriptors -----------------------------------------------------------

    def hypercall_set_trap_table(self, entries: Sequence[trap_info]) -> int:
        """Replace the given entries of the virtual IDT; an empty list clears the whole."""
        if not entries:
            return self._call(Hypercall.set_trap_table, 0)
        with self.arguments as area:
            va = area.push(b"".join([entry.pack() for entry in entries]) + bytes(trap_info.sizeof))
            return self._call(Hypercall.set_trap_table, va)

    def hypercall_set_callbacks(self, event: VAddr, failsafe: VAddr, syscall: VAddr) -> int:
        """Entry points of the guest kernel; 0 leaves one out."""
        return self._call(Hypercall.set_callbacks, event, failsafe, syscall)

    def hypercall_callback_op(self, cmd: int, op: Struct) -> int:
        """CALLBACKOP_register and _unregister: one entry point each."""
        return self._call_with(Hypercall.callback_op, op, cmd)

    def hypercall_set_gdt(self, frames: Sequence[Mfn], entries: int) -> int:
        """Use these frames (up to 14) as descriptor table."""
        with self.arguments as area:
            va = area.push(np.array(frames, "<u8").tobytes())
            return self._call(Hypercall.set_gdt, va, entries)

    def hypercall_update_descriptor(self, maddr: MAddr, descriptor: int) -> int:
        """Write one 8-byte descriptor at a machine address."""
        return self._call(Hypercall.update_descriptor, maddr, descriptor)

    def hypercall_stack_switch(self, ss: int, esp: VAddr) -> int:
        """The stack for entries from user mode."""
        return self._call(Hypercall.stack_switch, ss, esp)

    def hypercall_set_segment_base(self, which: int, base: VAddr) -> int:
        """SEGBASE_…: the base of FS or GS."""
        return self._call(Hypercall.set_segment_base, which, base)

    def hypercall_fpu_taskswitch(self, set_ts: bool) -> int:
        """Set or clear CR0.TS."""
        return self._call(Hypercall.fpu_taskswitch, int(set_ts))

    def hypercall_set_debugreg(self, reg: int, value: int) -> int:
        """Write DR0 … DR7."""
        return self._call(Hypercall.set_debugreg, reg, value)

    def hypercall_get_debugreg(self, reg: int) -> int:
        """Read DR0 … DR7."""
        return self._call(Hypercall.get_debugreg, reg)

    # --- console, version, several at once -------------------------------------------------------

    def hypercall_console_io(self, cmd: int, text: bytes) -> bytes:
        """CONSOLEIO_write: all of `text`; CONSOLEIO_read: up to len(text) bytes of input."""
        with self.arguments as area:
            va = area.push(text)
            count = self._call(Hypercall.console_io, cmd, len(text), va)
            return self._cpu.load(va, count) if cmd else b""

    def hypercall_xen_version(self, cmd: int, record: Struct | None = None) -> int:
        """XENVER_…; XENVER_version returns major << 16 | minor."""
        if record is None:
            return self._call(Hypercall.xen_version, cmd, 0)
        return self._call_with(Hypercall.xen_version, record, cmd)

    def hypercall_xen_version_text(self, cmd: int, size: int) -> str:
        """XENVER_extraversion and other text of at most `size` bytes."""
        with self.arguments as area:
            va = area.push(bytes(size))
            self._call(Hypercall.xen_version, cmd, va)
            return self._cpu.load(va, size).split(b"\0")[0].decode("ascii", "replace")

    def hypercall_multicall(self, entries: Sequence[multicall_entry]) -> int:
        """Several hypercalls in one; each result is in its entry."""
        return self._call_array(Hypercall.multicall, entries)

    # --- control and devices ---------------------------------------------------------------------

    def hypercall_physdev_op(self, cmd: int, op: Struct) -> int:
        """PHYSDEVOP_…"""
        return self._call_with(Hypercall.physdev_op, op, cmd)

    def hypercall_domctl(self, op: Any) -> int:
        """One xen_domctl; the control domain only."""
        return self._call_with(Hypercall.domctl, op)

    def hypercall_sysctl(self, op: Any) -> int:
        """One xen_sysctl; the control domain only."""
        return self._call_with(Hypercall.sysctl, op)

    def hypercall_hvm_op(self, cmd: int, op: Struct) -> int:
        """An operation on an HVM domain. XenError."""
        return self._call_with(Hypercall.hvm_op, op, cmd)

    def hypercall_platform_op(self, op: Any) -> int:
        """One xen_platform_op; the control domain only."""
        return self._call_with(Hypercall.platform_op, op)
