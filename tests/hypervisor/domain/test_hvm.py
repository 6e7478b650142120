"""HVM domains as the control domain makes them, and what their guests may ask of Xen."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from hypervisor.domain.requests import ProcessRequests
from hypervisor.public.arch_x86.xen import XEN_X86_EMU_LAPIC, XEN_X86_EMU_VGA, xen_arch_domainconfig
from hypervisor.public.domctl import (
    XEN_DOMCTL_INTERFACE_VERSION,
    XEN_DOMCTL_CDF_hap,
    XEN_DOMCTL_CDF_hvm,
    XEN_DOMCTL_createdomain,
    XEN_DOMCTL_getvcpucontext,
    xen_domctl,
    xen_domctl_createdomain,
    xen_domctl_u,
    xen_domctl_vcpucontext,
)
from hypervisor.public.errno import Errno
from hypervisor.public.event_channel import evtchn_init_control
from hypervisor.public.grant_table import GNTTABOP_get_status_frames, GNTTABOP_transfer
from hypervisor.public.hvm.hvm_op import (
    HVMOP_flush_tlbs,
    HVMOP_get_param,
    HVMOP_get_time,
    HVMOP_set_evtchn_upcall_vector,
    HVMOP_set_param,
    xen_hvm_evtchn_upcall_vector,
    xen_hvm_param,
)
from hypervisor.public.hvm.params import (
    HVM_NR_PARAMS,
    HVM_PARAM_CALLBACK_IRQ,
    HVM_PARAM_CONSOLE_PFN,
    HVM_PARAM_IDENT_PT,
    HVM_PARAM_IOREQ_PFN,
    HVM_PARAM_NESTEDHVM,
    HVM_PARAM_STORE_EVTCHN,
    HVM_PARAM_TIMER_MODE,
    HVM_PARAM_TRIPLE_FAULT_REASON,
    HVM_PARAM_VIRIDIAN,
    HVM_PARAM_X87_FIP_WIDTH,
)
from hypervisor.public.memory import XENMEM_machphys_mapping
from hypervisor.public.physdev import PHYSDEVOP_eoi, PHYSDEVOP_map_pirq, PHYSDEVOP_set_iopl
from hypervisor.public.sched import SHUTDOWN_crash, SHUTDOWN_reboot
from hypervisor.public.types import DomId
from hypervisor.public.xen import DOMID_SELF, CONSOLEIO_write, Hypercall, multicall_entry
from hypervisor.wire.mailbox import Engine
from hypervisor.wire.messages import CALLBACK_HVM_VECTOR, Effect, ProtocolError, Request
from tests.hypervisor.hvm_caller import ARGUMENTS, HvmCaller, hvm_house
from tests.hypervisor.mm.caller import Caller

HVM = int(XEN_DOMCTL_CDF_hvm)
HAP = int(XEN_DOMCTL_CDF_hap)
LAPIC = int(XEN_X86_EMU_LAPIC)
VECTOR = 2 << 56
LATCH = 1

House = tuple[Caller, HvmCaller]


@pytest.fixture
def house() -> Iterator[House]:
    with hvm_house() as house:
        yield house


def domctl(dom0: Caller, cmd: int, domid: int, **arm: object) -> int:
    op = xen_domctl(
        cmd=int(cmd),
        interface_version=XEN_DOMCTL_INTERFACE_VERSION,
        domain=domid,
        u=xen_domctl_u(**arm),
    )
    return dom0.call(Hypercall.domctl, dom0.record(op))


def create(dom0: Caller, flags: int, devices: int = LAPIC) -> int:
    config = xen_domctl_createdomain(
        flags=flags,
        max_vcpus=1,
        max_evtchn_port=-1 & 0xFFFF_FFFF,
        max_grant_frames=-1,
        max_maptrack_frames=-1,
        grant_opts=2,
        arch=xen_arch_domainconfig(emulation_flags=devices),
    )
    return domctl(dom0, XEN_DOMCTL_createdomain, 77, createdomain=config)


def test_createdomain_makes_an_hvm_domain_whose_first_answer_has_all_it_needs(house: House) -> None:
    dom0, _ = house
    assert create(dom0, HVM | HAP) == 0
    domain = dom0.machine.hv.domains[DomId(77)]
    assert (domain.mailbox.engine, domain.is_hvm) == (Engine.X86_64_NESTED, True)
    effects = {
        effect[0]: effect[1:] for effect in domain.vcpus[0].take_effects() if effect[0] != Effect.MAP_EXTENT
    }
    assert domain.mem.p2m is not None
    assert effects == {
        Effect.P2M: [domain.mem.p2m.top],
        Effect.VCPU_INFO: [0, domain.shared_info, 0],
    }
    assert not dom0.machine.memory.read(domain.shared_info << 12 | 1, 1)[0], (
        "an HVM guest's upcalls are not masked"
    )


@pytest.mark.parametrize(
    ("flags", "devices", "errno"),
    [
        (HAP, 0, Errno.EINVAL),
        (HVM | HAP | 1 << 31, LAPIC, Errno.EINVAL),
        (HVM | HAP, 0, Errno.EINVAL),
        (HVM | HAP, LAPIC | int(XEN_X86_EMU_VGA), Errno.EINVAL),
    ],
)
def test_what_is_not_built_is_refused(house: House, flags: int, devices: int, errno: Errno) -> None:
    dom0, _ = house
    before = set(dom0.machine.hv.domains)
    assert create(dom0, flags, devices) == -errno
    assert set(dom0.machine.hv.domains) == before


def test_operations_on_pv_registers_are_refused(house: House) -> None:
    dom0, guest = house
    where = xen_domctl_vcpucontext(vcpu=0, ctxt=dom0.scratch)
    result = domctl(dom0, XEN_DOMCTL_getvcpucontext, guest.d.domid, vcpucontext=where)
    assert result == -Errno.EOPNOTSUPP


@pytest.mark.parametrize("nr", [0, 1, 2, 3, 4, 10, 14, 26, 30], ids=lambda nr: Hypercall(nr).name)
def test_what_is_a_pv_guests_does_not_exist(house: House, nr: int) -> None:
    assert house[1].call(nr, ARGUMENTS, 1, 0, DOMID_SELF) == -Errno.ENOSYS


def test_a_line_for_the_console_from_an_unpaged_guest(house: House) -> None:
    _, guest = house
    text = b"hello from ring 0\n"
    assert (
        guest.call(Hypercall.console_io, int(CONSOLEIO_write), len(text), guest.write(ARGUMENTS, text)) == 0
    )
    assert b"hello from ring 0" in guest.machine.hv.log.read()


def test_assists_are_those_that_mean_something(house: House) -> None:
    _, guest = house
    assert guest.call(Hypercall.vm_assist, 0, 5) == 0
    assert all(effect[0] != Effect.VM_ASSIST for effect in guest.effects())
    assert guest.call(Hypercall.vm_assist, 0, 2) == -Errno.EINVAL


def hvm_op(guest: HvmCaller, op: int, index: int = 0, value: int = 0, domid: int = DOMID_SELF) -> int:
    request = xen_hvm_param(domid=domid, index=int(index), value=value)
    return guest.call(Hypercall.hvm_op, int(op), guest.record(request))


def test_events_come_by_the_vector_that_the_guest_names(house: House) -> None:
    _, guest = house
    assert hvm_op(guest, HVMOP_set_param, HVM_PARAM_CALLBACK_IRQ, VECTOR | 0xF3) == 0
    assert [Effect.CALLBACK, CALLBACK_HVM_VECTOR, 0xF3, LATCH] in guest.effects()
    assert hvm_op(guest, HVMOP_get_param, HVM_PARAM_CALLBACK_IRQ) == 0
    assert xen_hvm_param.unpack(guest.read(ARGUMENTS, 16)).value == VECTOR | 0xF3
    assert hvm_op(guest, HVMOP_set_param, HVM_PARAM_CALLBACK_IRQ, 0) == 0
    assert [Effect.CALLBACK, CALLBACK_HVM_VECTOR, 0, LATCH] in guest.effects()


def test_a_vcpu_keeps_the_vector_that_was_chosen_for_it(house: House) -> None:
    _, guest = house
    request = xen_hvm_evtchn_upcall_vector(vcpu=0, vector=0x40)
    assert guest.call(Hypercall.hvm_op, int(HVMOP_set_evtchn_upcall_vector), guest.record(request)) == 0
    assert [Effect.CALLBACK, CALLBACK_HVM_VECTOR, 0x40, 0] in guest.effects()
    assert hvm_op(guest, HVMOP_set_param, HVM_PARAM_CALLBACK_IRQ, VECTOR | 0xF3) == 0
    assert [Effect.CALLBACK, CALLBACK_HVM_VECTOR, 0x40, LATCH] in guest.effects()
    for vcpu, vector, errno in ((1, 0x40, Errno.ENOENT), (0, 15, Errno.EINVAL)):
        at = guest.record(xen_hvm_evtchn_upcall_vector(vcpu=vcpu, vector=vector))
        assert guest.call(Hypercall.hvm_op, int(HVMOP_set_evtchn_upcall_vector), at) == -errno


def test_another_domain_latches_nothing(house: House) -> None:
    dom0, guest = house
    request = xen_hvm_param(domid=guest.d.domid, index=int(HVM_PARAM_CALLBACK_IRQ), value=VECTOR | 0xF3)
    assert dom0.call(Hypercall.hvm_op, int(HVMOP_set_param), dom0.record(request)) == 0
    assert list(guest.vcpu.effects)[-1] == [Effect.CALLBACK, CALLBACK_HVM_VECTOR, 0xF3, 0]


@pytest.mark.parametrize(
    ("nr", "op", "errno"),
    [
        (Hypercall.physdev_op, PHYSDEVOP_map_pirq, Errno.EPERM),
        (Hypercall.physdev_op, PHYSDEVOP_eoi, Errno.ENOSYS),
        (Hypercall.physdev_op, PHYSDEVOP_set_iopl, Errno.ENOSYS),
        (Hypercall.grant_table_op, GNTTABOP_transfer, Errno.ENOSYS),
        (Hypercall.grant_table_op, GNTTABOP_get_status_frames, Errno.ENOSYS),
        (Hypercall.memory_op, XENMEM_machphys_mapping, Errno.ENOSYS),
        (Hypercall.domctl, 0, Errno.EPERM),
        (Hypercall.sysctl, 0, Errno.EPERM),
    ],
)
def test_parts_of_a_hypercall_that_are_not_an_hvm_guests(
    house: House, nr: int, op: int, errno: Errno
) -> None:
    assert house[1].call(nr, int(op), house[1].write(ARGUMENTS, bytes(256)), 1) == -errno


def test_a_multicall_keeps_to_the_hypercalls_of_hvm_guests(house: House) -> None:
    _, guest = house
    calls = [
        (Hypercall.vm_assist, 0, 5),
        (Hypercall.set_debugreg, 7, 0),
        (Hypercall.iret, 0, 0),
        (Hypercall.sched_op, 99, 0),
    ]
    entries = [multicall_entry(op=int(nr), args=(a, b, 0, 0, 0, 0)) for nr, a, b in calls]
    at = guest.write(ARGUMENTS, b"".join(entry.pack() for entry in entries))
    assert guest.call(Hypercall.multicall, at, len(entries)) == 0
    after = multicall_entry.array(guest.read(ARGUMENTS, 64 * len(entries)), len(entries))
    assert after["result"].astype(np.int64).tolist() == [0, *3 * [-int(Errno.ENOSYS)]]
    assert all(effect[0] != Effect.LOCAL for effect in guest.effects())


@pytest.mark.parametrize(
    ("op", "index", "value", "errno"),
    [
        (HVMOP_set_param, HVM_PARAM_CALLBACK_IRQ, 1 << 56 | 5, Errno.EOPNOTSUPP),
        (HVMOP_set_param, HVM_PARAM_CALLBACK_IRQ, 5, Errno.EOPNOTSUPP),
        (HVMOP_set_param, HVM_PARAM_CALLBACK_IRQ, VECTOR | 14, Errno.EINVAL),
        (HVMOP_set_param, HVM_PARAM_CONSOLE_PFN, 5, Errno.EPERM),
        (HVMOP_get_param, HVM_PARAM_IOREQ_PFN, 0, Errno.EPERM),
        (HVMOP_set_param, HVM_NR_PARAMS, 0, Errno.EINVAL),
        (HVMOP_get_param, 0xFFFF_FFFF, 0, Errno.EINVAL),
        (HVMOP_flush_tlbs, 0, 0, Errno.EINVAL),
        (HVMOP_set_evtchn_upcall_vector, 0, 0, Errno.EINVAL),
        (99, 0, 0, Errno.ENOSYS),
    ],
)
def test_what_is_not_the_guests_to_set_or_read_is_refused(
    house: House, op: int, index: int, value: int, errno: Errno
) -> None:
    assert hvm_op(house[1], op, index, value) == -errno


def test_parameters_that_the_control_domain_sets_are_the_guests_to_read(house: House) -> None:
    dom0, guest = house
    request = xen_hvm_param(domid=guest.d.domid, index=int(HVM_PARAM_CONSOLE_PFN), value=0xFEFFE)
    assert dom0.call(Hypercall.hvm_op, int(HVMOP_set_param), dom0.record(request)) == 0
    assert hvm_op(guest, HVMOP_get_param, HVM_PARAM_CONSOLE_PFN) == 0
    assert xen_hvm_param.unpack(guest.read(ARGUMENTS, 16)).value == 0xFEFFE
    assert hvm_op(guest, HVMOP_get_param, HVM_PARAM_CONSOLE_PFN, domid=0) == -Errno.EPERM
    request = xen_hvm_param(domid=DomId(0), index=int(HVM_PARAM_CONSOLE_PFN))
    assert dom0.call(Hypercall.hvm_op, int(HVMOP_get_param), dom0.record(request)) == -Errno.EINVAL


@pytest.mark.parametrize(
    ("index", "value", "errno"),
    [
        (HVM_PARAM_IDENT_PT, 0xFEFFD000, 0),
        (HVM_PARAM_STORE_EVTCHN, 1, 0),
        (HVM_PARAM_TIMER_MODE, 3, 0),
        (HVM_PARAM_TIMER_MODE, 4, Errno.EINVAL),
        (HVM_PARAM_X87_FIP_WIDTH, 8, 0),
        (HVM_PARAM_X87_FIP_WIDTH, 5, Errno.EINVAL),
        (HVM_PARAM_TRIPLE_FAULT_REASON, 6, Errno.EINVAL),
        (HVM_PARAM_VIRIDIAN, 1, Errno.EINVAL),
        (HVM_PARAM_NESTEDHVM, 1, Errno.EINVAL),
    ],
)
def test_the_control_domain_sets_what_a_domain_can_have(
    house: House, index: int, value: int, errno: int
) -> None:
    dom0, guest = house
    request = xen_hvm_param(domid=guest.d.domid, index=int(index), value=value)
    assert dom0.call(Hypercall.hvm_op, int(HVMOP_set_param), dom0.record(request)) == -errno
    assert dom0.call(Hypercall.hvm_op, int(HVMOP_get_param), dom0.record(request)) == 0
    assert xen_hvm_param.unpack(dom0.get(0, 16)).value == (0 if errno else value)


def test_some_parameters_are_set_for_good(house: House) -> None:
    dom0, guest = house
    for value, errno in ((0xFEFF8, 0), (0xFEFF8, 0), (0xFEFF9, Errno.EEXIST)):
        request = xen_hvm_param(domid=guest.d.domid, index=int(HVM_PARAM_IOREQ_PFN), value=value)
        assert dom0.call(Hypercall.hvm_op, int(HVMOP_set_param), dom0.record(request)) == -errno


def test_the_time_and_a_flush(house: House) -> None:
    _, guest = house
    assert guest.call(Hypercall.hvm_op, int(HVMOP_get_time), ARGUMENTS) == 0
    assert 0 < int.from_bytes(guest.read(ARGUMENTS, 8), "little") <= guest.machine.hv.now()
    assert guest.call(Hypercall.hvm_op, int(HVMOP_flush_tlbs), 0) == 0
    assert [Effect.FLUSH_TLB] in guest.effects()


def test_vcpu_info_lies_in_a_guest_frame(house: House) -> None:
    _, guest = house
    at = guest.write(ARGUMENTS, (9).to_bytes(8, "little") + (64).to_bytes(8, "little"))
    assert guest.call(Hypercall.vcpu_op, 10, 0, at) == 0
    assert [Effect.VCPU_INFO, 0, guest.mfn(9), 64] in guest.effects()


def test_a_fifo_control_block_is_looked_for_at_a_guest_frame(house: House) -> None:
    """The layout is not there, but a good argument finds out only that."""
    _, guest = house
    for gfn, errno in ((9, Errno.ENOSYS), (0x500, Errno.EINVAL)):
        at = guest.record(evtchn_init_control(control_gfn=gfn))
        assert guest.call(Hypercall.event_channel_op, 11, at) == -errno


@pytest.mark.parametrize(("asked", "code"), [(None, SHUTDOWN_reboot), (SHUTDOWN_crash, SHUTDOWN_crash)])
def test_a_triple_fault_shuts_the_domain_down_as_its_toolstack_said(
    house: House, asked: int | None, code: int
) -> None:
    dom0, guest = house
    if asked is not None:
        guest.domain.hvm_params[int(HVM_PARAM_TRIPLE_FAULT_REASON)] = asked
    hv = dom0.machine.hv
    ProcessRequests(hv).perform(guest.vcpu, 1, int(Request.TRIPLE_FAULT), (b"registers", 0, 0, 0, 0))
    assert (guest.domain.is_shut_down, guest.domain.shutdown_code) == (True, code)


def test_a_pv_guest_has_no_triple_faults(house: House) -> None:
    dom0, _ = house
    with pytest.raises(ProtocolError):
        ProcessRequests(dom0.machine.hv).perform(
            dom0.machine.hv.domains[DomId(0)].vcpus[0],
            1,
            int(Request.TRIPLE_FAULT),
            (b"registers", 0, 0, 0, 0),
        )
