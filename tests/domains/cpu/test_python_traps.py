"""Traps, modes, upcalls and effects of a vCPU that runs Python."""

import signal

import pytest

from domains.cpu.python_memory import MAX_REFAULTS
from domains.cpu.traps import TrapFrame
from domains.kernel.kernel import Kernel, PageFault
from domains.kernel.page_tables import READ_WRITE
from hypervisor.public.arch_x86.xen import trap_info
from hypervisor.public.callback import CALLBACKOP_register, CALLBACKTYPE_syscall, callback_register
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, VAddr
from hypervisor.public.xen import UVMF_INVLPG, Hypercall, multicall_entry
from tests.domains.cpu.user_space import USER_VA, enter_user_space
from tests.domains.kernel.one_process import Crashed, PythonDomain

FLAT_CS = 0xE033
SEGMENT_BASE = 0x1234_5000


def map_one_more(kernel: Kernel) -> tuple[VAddr, list[PageFault]]:
    """A page of address space whose first touch the kernel repairs, and the faults seen."""
    va, faults = kernel.memory.area.alloc(1), []

    def repair(fault: PageFault) -> None:
        faults.append(fault)
        kernel.memory.tables.ensure_l1(va)
        frame = kernel.memory.alloc_page()
        kernel.hypercalls.hypercall_update_va_mapping(va, frame.mfn << PAGE_SHIFT | READ_WRITE, UVMF_INVLPG)

    kernel.on_page_fault(repair)
    return va, faults


def test_an_access_is_tried_again_after_the_handler_has_repaired_it(kernel: Kernel) -> None:
    va, faults = map_one_more(kernel)
    kernel.cpu.store(va + 8, b"paged in")
    assert kernel.cpu.load(va + 8, 8) == b"paged in"
    assert [fault.va for fault in faults] == [va + 8]


def test_the_handler_runs_in_kernel_mode_and_user_mode_goes_on_afterwards(kernel: Kernel) -> None:
    enter_user_space(kernel)
    modes = []

    def refuse(fault: PageFault) -> None:
        modes.append(kernel.cpu.user)
        raise fault

    kernel.on_page_fault(refuse)
    with kernel.cpu.user_mode():
        with pytest.raises(PageFault):
            kernel.cpu.load(0x1000, 1)
        assert kernel.cpu.user
        assert kernel.cpu.load(USER_VA, 1) == b"\0"
    assert modes == [False]


def test_a_handler_that_repairs_nothing_ends_the_domain(kernel: Kernel) -> None:
    faults: list[PageFault] = []
    kernel.on_page_fault(faults.append)
    with pytest.raises(Crashed, match="not repaired"):
        kernel.cpu.load(0x1000, 1)
    assert len(faults) == MAX_REFAULTS


def test_a_handler_that_faults_itself_is_a_double_fault(kernel: Kernel) -> None:
    kernel.on_page_fault(lambda fault: kernel.cpu.store(fault.va, b"x"))
    with pytest.raises(Crashed, match="double fault"):
        kernel.cpu.load(0x1000, 1)


def test_a_trap_without_handler_is_a_double_fault(domain: PythonDomain) -> None:
    with pytest.raises(Crashed, match="double fault"):
        domain.cpu.load(0x1000, 1)
    assert domain.built.domain.shutdown_code == 3


def test_a_cleared_trap_table_has_no_handlers(kernel: Kernel) -> None:
    kernel.hypercalls.hypercall_set_trap_table([])
    with pytest.raises(Crashed, match="double fault"):
        kernel.cpu.load(0x1000, 1)


def test_a_handler_outside_the_image_is_a_jump_to_nowhere(kernel: Kernel) -> None:
    page = kernel.memory.alloc_page()
    kernel.hypercalls.hypercall_set_trap_table([trap_info(vector=14, cs=FLAT_CS, address=page.va)])
    with pytest.raises(Crashed, match="no code"):
        kernel.cpu.load(0x1000, 1)


def test_an_interrupt_gate_masks_upcalls_while_its_handler_runs(kernel: Kernel) -> None:
    masks = []

    def handler(frame: TrapFrame) -> None:
        masks.append((frame.upcall_mask, kernel.cpu.events.upcall_mask))
        raise PageFault(kernel.shared_info.fault_address, frame.error_code)

    address = kernel.cpu.address_of(handler)
    for flags in (0, 4):
        kernel.hypercalls.hypercall_set_trap_table(
            [trap_info(vector=14, flags=flags, cs=FLAT_CS, address=address)]
        )
        with pytest.raises(PageFault):
            kernel.cpu.load(0x1000, 1)
        assert not kernel.cpu.events.upcall_mask
    assert masks == [(False, False), (False, True)]


def test_user_mode_cannot_enter_the_hypervisor(kernel: Kernel) -> None:
    enter_user_space(kernel)
    with kernel.cpu.user_mode(), pytest.raises(PermissionError):
        kernel.cpu.hypercall(Hypercall.xen_version, 0)


def test_a_system_call_of_user_mode_is_answered_by_the_guest_kernel(kernel: Kernel) -> None:
    enter_user_space(kernel)

    def add(nr: int, a: int, b: int) -> int:
        assert not kernel.cpu.user
        return nr + a + b

    register = callback_register(type=CALLBACKTYPE_syscall, address=kernel.cpu.address_of(add))
    kernel.hypercalls.hypercall_callback_op(CALLBACKOP_register, register)
    with kernel.cpu.user_mode():
        assert kernel.cpu.syscall(1, 20, 300) == 321
    assert kernel.cpu.syscall(Hypercall.xen_version, 0) >> 16 == 4


def test_an_upcall_comes_between_two_steps_of_the_guest_and_not_while_masked(
    domain: PythonDomain, kernel: Kernel
) -> None:
    seen = []
    port = kernel.events.alloc_unbound(domain.gate.domid)
    other = kernel.events.bind_interdomain(domain.gate.domid, port)
    kernel.events.bind(other, lambda: seen.append(1))
    assert kernel.wait(lambda: bool(seen), 1)
    kernel.shared_info.mask_upcalls()
    domain.built.domain.mailbox.raise_port(other, 0)
    domain.cpu.interrupt(signal.SIGUSR1)
    assert not kernel.loop.ready
    kernel.shared_info.unmask_upcalls()
    assert len(kernel.loop.ready) == 1
    assert kernel.wait(lambda: len(seen) == 2, 1)


def test_an_interrupt_in_the_hypervisor_is_left_to_the_way_out(domain: PythonDomain, kernel: Kernel) -> None:
    port = kernel.events.alloc_unbound(domain.gate.domid)
    other = kernel.events.bind_interdomain(domain.gate.domid, port)
    seen = []
    kernel.events.bind(other, lambda: seen.append(1))
    kernel.wait(lambda: bool(seen), 1)
    domain.gate.on_hypercall = lambda: (
        domain.built.domain.mailbox.raise_port(other, 0),
        domain.cpu.interrupt(),
    )
    kernel.hypercalls.hypercall_xen_version(0)
    domain.gate.on_hypercall = None
    assert len(kernel.loop.ready) == 1


def test_a_multicall_may_contain_what_the_process_performs_itself(kernel: Kernel) -> None:
    page = kernel.memory.alloc_page()
    entries = [
        multicall_entry(op=Hypercall.set_debugreg, args=(1, SEGMENT_BASE, 0, 0, 0, 0)),
        multicall_entry(op=Hypercall.update_va_mapping, args=(page.va, 0, UVMF_INVLPG, 0, 0, 0)),
        multicall_entry(op=Hypercall.get_debugreg, args=(1, 0, 0, 0, 0, 0)),
        multicall_entry(op=Hypercall.set_debugreg, args=(9, 0, 0, 0, 0, 0)),
    ]
    kernel.hypercalls.hypercall_multicall(entries)
    minus_einval = (1 << 64) - Errno.EINVAL
    assert [entry.result for entry in entries] == [0, 0, SEGMENT_BASE, minus_einval]
    with pytest.raises(PageFault):
        kernel.cpu.load(page.va, 1)


def test_an_error_of_a_hypercall_is_an_exception_with_its_errno(kernel: Kernel) -> None:
    with pytest.raises(XenError) as error:
        kernel.hypercalls.hypercall_update_va_mapping(VAddr(0xFFFF_8000_0000_0000), 0)
    assert error.value.errno == Errno.EINVAL


def test_the_image_has_room_for_a_bounded_number_of_handlers(kernel: Kernel) -> None:
    handlers = [lambda frame, i=i: None for i in range(PAGE_SIZE)]
    with pytest.raises(MemoryError):
        _ = [kernel.cpu.address_of(handler) for handler in handlers]
    assert kernel.cpu.address_of(handlers[0]) == kernel.cpu.address_of(handlers[0])
