"""vcpu_op: bringing vCPUs up and down, run states, timers, registered areas (Xen common/domain.c, public/vcpu.h).

Of a PV guest all vCPUs can run; of an HVM guest, and of one in Python, vCPU 0 alone: bringing another up answers EOPNOTSUPP.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from hypervisor.domain.context import check_context, install_context
from hypervisor.domain.domain import Vcpu
from hypervisor.domain.runstate_area import runstate_info
from hypervisor.hypercalls.call import Call, Result
from hypervisor.machine.clock import time_info
from hypervisor.machine.frame_types import PGT
from hypervisor.mm.layout import addr_ok
from hypervisor.public.arch_x86.xen import vcpu_guest_context
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.sched import SHUTDOWN_poweroff
from hypervisor.public.types import PAGE_SIZE, U64
from hypervisor.public.vcpu import (
    VCPU_SSHOTTMR_future,
    VCPUOP_down,
    VCPUOP_get_physid,
    VCPUOP_get_runstate_info,
    VCPUOP_initialise,
    VCPUOP_is_up,
    VCPUOP_register_runstate_memory_area,
    VCPUOP_register_vcpu_info,
    VCPUOP_register_vcpu_time_memory_area,
    VCPUOP_set_periodic_timer,
    VCPUOP_set_singleshot_timer,
    VCPUOP_stop_periodic_timer,
    VCPUOP_stop_singleshot_timer,
    VCPUOP_up,
    vcpu_register_runstate_memory_area,
    vcpu_register_time_memory_area,
    vcpu_register_vcpu_info,
    vcpu_set_periodic_timer,
    vcpu_set_singleshot_timer,
)
from hypervisor.public.xen import vcpu_info
from hypervisor.sched.timers import TimerKind, s_time
from hypervisor.wire.messages import Effect

MIN_PERIOD_NS: Final = 1_000_000
STIME_DELTA_MAX: Final = (1 << 62) - 1
"""Longest period, ns (Xen xen/time.h)."""


def do_initialise(call: Call, vcpu: Vcpu, arg: int) -> Result:
    """Give a vCPU its first registers, once (D6)."""
    if vcpu.initialised:
        raise XenError(Errno.EEXIST, f"D6: vCPU {vcpu.vcpu_id} is initialised already")
    if call.domain.is_hvm:
        raise XenError(Errno.EOPNOTSUPP, f"vCPU {vcpu.vcpu_id}: only vCPU 0 can run")
    raw = call.copy_from_guest(arg, call.abi.sizeof(vcpu_guest_context))
    context = check_context(call.domain, raw)
    install_context(call.hv, vcpu, context, call.budget)
    return 0


def do_up(call: Call, vcpu: Vcpu, _arg: int) -> Result:
    """Have an initialised vCPU run. EOPNOTSUPP: the domain's process runs vCPU 0 alone."""
    if not vcpu.initialised:
        raise XenError(Errno.EINVAL, f"vCPU {vcpu.vcpu_id} is not initialised")
    if vcpu.vcpu_id != 0 and not call.domain.mailbox.engine.runs_all_vcpus:
        raise XenError(Errno.EOPNOTSUPP, f"vCPU {vcpu.vcpu_id}: only vCPU 0 can run")
    call.hv.run.vcpu_up(vcpu)
    return 0


def do_down(call: Call, vcpu: Vcpu, _arg: int) -> Result:
    """Offline until VCPUOP_up; when no other is up, the domain shuts down instead, as on Xen."""
    if any(other.up for other in call.domain.vcpus if other is not vcpu):
        call.hv.run.vcpu_down(vcpu)
    else:
        call.hv.shutdown(call.domain, int(SHUTDOWN_poweroff))
    return 0


def do_is_up(_call: Call, vcpu: Vcpu, _arg: int) -> Result:
    """1 if the vCPU was brought up, else 0."""
    return int(vcpu.up)


def do_get_runstate_info(call: Call, vcpu: Vcpu, arg: int) -> Result:
    """The vCPU's run state, and the ns it spent in each."""
    call.write(arg, runstate_info(vcpu, call.hv.now()))
    return 0


def do_register_runstate(call: Call, vcpu: Vcpu, arg: int) -> Result:
    """Keep a copy of the run state at this virtual address; it is written each time the vCPU gets a slice.

    Only an address in Xen's own range is refused: the guest may map the page later.
    """
    area = call.read(arg, vcpu_register_runstate_memory_area).addr.v
    if not addr_ok(area):
        raise XenError(Errno.EFAULT, f"a run state area at {area:#x}, in Xen's own range")
    vcpu.runstate_area = area
    if area:
        call.hv.write_runstate(vcpu)
    return 0


def do_register_time(call: Call, vcpu: Vcpu, arg: int) -> Result:
    """Write a copy of vcpu_time_info to this virtual address, for user space. It need not be brought up to date: what tells the
    time stays true. Only an address in Xen's own range is refused; where nothing is mapped, nothing is written, as on Xen.
    """
    area = call.read(arg, vcpu_register_time_memory_area).addr.v
    if not addr_ok(area):
        raise XenError(Errno.EFAULT, f"a time area at {area:#x}, in Xen's own range")
    if area:
        mailbox = vcpu.domain.mailbox
        info = time_info(mailbox.epoch + mailbox.tsc_offset & U64)
        with suppress(XenError):
            call.hv.mmu.guest.copy_to_guest(vcpu.mem, area, info.pack())
    return 0


def do_get_physid(_call: Call, _vcpu: Vcpu, _arg: int) -> Result:
    """EINVAL: no vCPU is bound to a physical CPU for good; on Xen Dom0's can be."""
    raise XenError(Errno.EINVAL, "no vCPU is bound to a physical CPU for good")


def do_register_vcpu_info(call: Call, vcpu: Vcpu, arg: int) -> Result:
    """Move vcpu_info into a frame of the guest, once; it stays writable for as long as it is registered (D7, XSA-327)."""
    info = call.read(arg, vcpu_register_vcpu_info)
    if vcpu.info_frame is not None:
        raise XenError(Errno.EINVAL, "D7: vcpu_info is registered already")
    if info.offset > PAGE_SIZE - vcpu_info.sizeof:
        raise XenError(Errno.ENXIO, f"D7: vcpu_info at offset {info.offset:#x} leaves its frame")
    if info.offset & 7:
        raise XenError(Errno.ENXIO, f"D7: vcpu_info at offset {info.offset:#x} is not aligned")
    if vcpu is not call.vcpu and vcpu.up:
        raise XenError(Errno.EINVAL, "D7: the vCPU runs")
    mfn = call.domain.mem.machine_frame(info.mfn)
    call.hv.mmu.types.get_page_and_type(mfn, call.domain.domid, PGT.writable_page)
    vcpu.info_frame = mfn
    call.domain.effects.append([Effect.VCPU_INFO, vcpu.vcpu_id, mfn, info.offset])
    return 0


def do_set_periodic_timer(call: Call, vcpu: Vcpu, arg: int) -> Result:
    """Has VIRQ_TIMER sent every `period_ns`. EINVAL: too short or too long a period."""
    period = call.read(arg, vcpu_set_periodic_timer).period_ns
    if not MIN_PERIOD_NS <= period <= STIME_DELTA_MAX:
        raise XenError(Errno.EINVAL, f"a period of {period} ns")
    vcpu.periodic_period = period
    call.hv.timers.set(TimerKind.PERIODIC, vcpu.domain.domid, vcpu.vcpu_id, call.hv.now() + period)
    return 0


def do_stop_periodic_timer(call: Call, vcpu: Vcpu, _arg: int) -> Result:
    """No periodic timer any more, if there was one."""
    vcpu.periodic_period = 0
    call.hv.timers.stop(TimerKind.PERIODIC, vcpu.domain.domid, vcpu.vcpu_id)
    return 0


def do_set_singleshot_timer(call: Call, vcpu: Vcpu, arg: int) -> Result:
    """One VIRQ_TIMER at an absolute system time (ns); only for oneself."""
    if vcpu is not call.vcpu:
        raise XenError(Errno.EINVAL, "a single-shot timer of another vCPU")
    timer = call.read(arg, vcpu_set_singleshot_timer)
    now = call.hv.now()
    if timer.flags & VCPU_SSHOTTMR_future and timer.timeout_abs_ns < now:
        raise XenError(Errno.ETIME, "the time has passed")
    when = s_time(timer.timeout_abs_ns)
    call.hv.timers.set(TimerKind.SINGLESHOT, vcpu.domain.domid, vcpu.vcpu_id, when)
    return 0


def do_stop_singleshot_timer(call: Call, vcpu: Vcpu, _arg: int) -> Result:
    """Stops the caller's single-shot timer. EINVAL for another vCPU."""
    if vcpu is not call.vcpu:
        raise XenError(Errno.EINVAL, "a single-shot timer of another vCPU")
    call.hv.timers.stop(TimerKind.SINGLESHOT, vcpu.domain.domid, vcpu.vcpu_id)
    return 0


VCPU_OPS: Final[dict[int, Callable[[Call, Vcpu, int], Result]]] = {
    VCPUOP_initialise: do_initialise,
    VCPUOP_up: do_up,
    VCPUOP_down: do_down,
    VCPUOP_is_up: do_is_up,
    VCPUOP_get_runstate_info: do_get_runstate_info,
    VCPUOP_register_runstate_memory_area: do_register_runstate,
    VCPUOP_register_vcpu_info: do_register_vcpu_info,
    VCPUOP_register_vcpu_time_memory_area: do_register_time,
    VCPUOP_get_physid: do_get_physid,
    VCPUOP_set_periodic_timer: do_set_periodic_timer,
    VCPUOP_stop_periodic_timer: do_stop_periodic_timer,
    VCPUOP_set_singleshot_timer: do_set_singleshot_timer,
    VCPUOP_stop_singleshot_timer: do_stop_singleshot_timer,
}


def do_vcpu_op(call: Call) -> Result:
    """An operation on a vCPU of the caller's domain. ENOENT: no such vCPU; ENOSYS: no such operation."""
    cmd, vcpu_id, arg = call.args[:3]
    if vcpu_id >= len(call.domain.vcpus):
        raise XenError(Errno.ENOENT, f"there is no vCPU {vcpu_id}")
    op = VCPU_OPS.get(cmd)
    if op is None:
        raise XenError(Errno.ENOSYS, f"vcpu_op {cmd}")
    return op(call, call.domain.vcpus[vcpu_id], arg)
