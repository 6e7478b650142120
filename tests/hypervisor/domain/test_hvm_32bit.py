"""A 32-bit HVM guest's hypercalls: the layout of each is its caller's, and shared_info's is the one that was latched.

Negative control: the same bytes, read in 64 bits, are another request, which is refused.
"""

from collections.abc import Iterator

import pytest

from hypervisor.public.abi import COMPAT
from hypervisor.public.errno import Errno
from hypervisor.public.event_channel import evtchn_alloc_unbound
from hypervisor.public.grant_table import GNTTABOP_setup_table, gnttab_setup_table
from hypervisor.public.layout import Struct
from hypervisor.public.memory import XENMEM_populate_physmap, xen_memory_reservation
from hypervisor.public.sched import SCHEDOP_poll, sched_poll
from hypervisor.public.types import VAddr
from hypervisor.public.vcpu import (
    VCPUOP_get_runstate_info,
    VCPUOP_register_runstate_memory_area,
    vcpu_runstate_info,
)
from hypervisor.public.version import XENVER_platform_parameters
from hypervisor.public.xen import DOMID_SELF, Hypercall, multicall_entry, shared_info
from hypervisor.sched.timers import TimerKind
from hypervisor.wire.mailbox import GuestPaging
from tests.hypervisor.hvm_caller import ARGUMENTS, HvmCaller, hvm_house

LIST = ARGUMENTS + 0x800
RUNSTATE = 0x5000


@pytest.fixture
def guest() -> Iterator[HvmCaller]:
    with hvm_house() as (_, guest):
        execute(guest, code32=True)
        yield guest


def execute(guest: HvmCaller, *, code32: bool) -> None:
    guest.domain.mailbox.set_guest_mode(0, 0, GuestPaging.NONE, code32=code32)


def put(guest: HvmCaller, record: Struct) -> int:
    return guest.write(ARGUMENTS, COMPAT.layout(type(record)).pack(record))


def populate(guest: HvmCaller) -> int:
    guest.write(LIST, COMPAT.pack_words([0x100, 0x101, 0x102]))
    request = xen_memory_reservation(extent_start=VAddr(LIST), nr_extents=3, domid=DOMID_SELF)
    return guest.call(Hypercall.memory_op, int(XENMEM_populate_physmap), put(guest, request))


def test_a_list_of_frames_in_words_of_32_bits(guest: HvmCaller) -> None:
    assert populate(guest) == 3
    assert None not in [guest.mfn(gfn) for gfn in (0x100, 0x101, 0x102)]


def test_negative_control_the_same_request_of_64_bit_code_is_another_one(guest: HvmCaller) -> None:
    execute(guest, code32=False)
    assert populate(guest) <= 0
    assert guest.mfn(0x101) is None


def test_a_multicall_of_32_bits_keeps_results_in_its_own_entries(guest: HvmCaller) -> None:
    calls = [(Hypercall.set_timer_op, 5, 1), (Hypercall.set_debugreg, 0, 0), (Hypercall.vm_assist, 0, 5)]
    entries = [multicall_entry(op=int(nr), args=(a, b, 0, 0, 0, 0)) for nr, a, b in calls]
    layout = COMPAT.layout(multicall_entry)
    at = guest.write(ARGUMENTS, b"".join(layout.pack(entry) for entry in entries))
    assert guest.call(Hypercall.multicall, at, len(entries)) == 0
    raw = guest.read(ARGUMENTS, layout.sizeof * len(entries))
    assert [layout.unpack(raw, i * layout.sizeof).result for i in range(3)] == [
        0,
        -Errno.ENOSYS & 0xFFFF_FFFF,
        0,
    ]


def test_a_timer_is_set_by_two_halves(guest: HvmCaller) -> None:
    low, high = 5, guest.machine.hv.now() + 2**34 >> 32
    assert guest.call(Hypercall.set_timer_op, low, high) == 0
    timers = guest.machine.hv.timers
    assert not [due for due in timers.due((high << 32) + low - 1) if due.kind is TimerKind.SINGLESHOT]
    assert [due.kind for due in timers.due((high << 32) + low)] == [TimerKind.SINGLESHOT]


def test_a_poll_looks_at_the_bits_of_the_latched_layout(guest: HvmCaller) -> None:
    at = guest.record(evtchn_alloc_unbound(dom=DOMID_SELF, remote_dom=DOMID_SELF))
    assert guest.call(Hypercall.event_channel_op, 6, at) == 0
    port = int.from_bytes(guest.read(ARGUMENTS + 4, 4), "little")
    guest.domain.mailbox.latch_shinfo_size(is_32bit=True)
    pending = COMPAT.layout(shared_info).offsetof("evtchn_pending")
    guest.machine.memory.write((guest.domain.shared_info << 12) + pending, bytes([1 << port]))
    guest.write(LIST, port.to_bytes(4, "little"))
    arg = put(guest, sched_poll(ports=VAddr(LIST), nr_ports=1))
    assert guest.call(Hypercall.sched_op, int(SCHEDOP_poll), arg) == 0


def test_there_are_1024_ports_once_the_layout_is_latched(guest: HvmCaller) -> None:
    guest.domain.mailbox.latch_shinfo_size(is_32bit=True)
    at = guest.record(evtchn_alloc_unbound(dom=DOMID_SELF, remote_dom=DOMID_SELF))
    hypercall = guest.machine.hypercall
    results = [hypercall(guest.vcpu, Hypercall.event_channel_op, 6, at) for _ in range(1024)]
    assert results == [0] * 1023 + [-Errno.ENOSPC]


def test_run_states_are_told_in_the_callers_layout_and_kept_in_the_latched_one(guest: HvmCaller) -> None:
    layout = COMPAT.layout(vcpu_runstate_info)
    guest.write(ARGUMENTS, bytes(64))
    assert guest.call(Hypercall.vcpu_op, int(VCPUOP_get_runstate_info), 0, ARGUMENTS) == 0
    assert layout.unpack(guest.read(ARGUMENTS, layout.sizeof)).state_entry_time > 0
    guest.domain.mailbox.latch_shinfo_size(is_32bit=True)
    guest.write(RUNSTATE, b"\xaa" * 64)
    guest.write(ARGUMENTS, RUNSTATE.to_bytes(4, "little") + b"\xff" * 4)
    assert guest.call(Hypercall.vcpu_op, int(VCPUOP_register_runstate_memory_area), 0, ARGUMENTS) == 0
    assert layout.unpack(guest.read(RUNSTATE, layout.sizeof)).state_entry_time > 0
    assert guest.read(RUNSTATE + layout.sizeof, 4) == b"\xaa" * 4


def test_the_grant_tables_frames_are_told_in_words_of_32_bits(guest: HvmCaller) -> None:
    guest.write(LIST, b"\xaa" * 8)
    arg = put(guest, gnttab_setup_table(dom=DOMID_SELF, nr_frames=1, frame_list=VAddr(LIST)))
    assert guest.call(Hypercall.grant_table_op, int(GNTTABOP_setup_table), arg, 1) == 0
    assert COMPAT.layout(gnttab_setup_table).unpack(guest.read(ARGUMENTS, 16)).status == 0
    assert guest.read(LIST, 8) == b"\xff" * 4 + b"\xaa" * 4


def test_where_xen_lies_is_nothing_to_such_a_guest(guest: HvmCaller) -> None:
    guest.write(ARGUMENTS, b"\xaa" * 8)
    assert guest.call(Hypercall.xen_version, int(XENVER_platform_parameters), ARGUMENTS) == 0
    assert guest.read(ARGUMENTS, 8) == bytes(4) + b"\xaa" * 4
