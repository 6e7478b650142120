"""The words of the 2-level event ABI: rules E6 and E7 for one port and for any interleaving."""

from hypothesis import given
from hypothesis import strategies as st

from domains.cpu.event_words import EventWords
from hypervisor.public.abi import COMPAT, NATIVE
from hypervisor.public.types import PAGE_SIZE
from hypervisor.public.xen import shared_info, vcpu_info, vcpu_time_info

PENDING, MASK = shared_info.offsetof("evtchn_pending"), shared_info.offsetof("evtchn_mask")
SEL = vcpu_info.offsetof("evtchn_pending_sel")


def words() -> tuple[bytearray, EventWords]:
    page = bytearray(PAGE_SIZE)
    return page, EventWords(memoryview(page))


def bit(page: bytearray, at: int, port: int) -> bool:
    return bool(page[at + port // 8] >> port % 8 & 1)


def test_an_unmasked_event_is_pending_selected_and_upcalled() -> None:
    page, events = words()
    events.set_pending(70)
    assert bit(page, PENDING, 70)
    assert int.from_bytes(page[SEL : SEL + 8], "little") == 1 << 1
    assert events.upcall_pending


def test_a_masked_event_is_only_pending() -> None:
    page, events = words()
    page[MASK] = 1 << 5
    events.set_pending(5)
    assert bit(page, PENDING, 5)
    assert page[SEL] == 0
    assert not events.upcall_pending


def test_unmasking_a_pending_port_raises_it_again() -> None:
    page, events = words()
    page[MASK] = 1 << 5
    events.set_pending(5)
    events.unmask(5)
    assert not bit(page, MASK, 5)
    assert page[SEL] == 1
    assert events.upcall_pending


def test_a_closed_port_is_not_pending() -> None:
    page, events = words()
    events.set_pending(4095)
    events.clear(4095)
    assert not bit(page, PENDING, 4095)


def test_a_vcpu_info_that_moves_keeps_its_content_and_loses_no_event() -> None:
    page, events = words()
    events.upcall_mask = True
    events.set_pending(3)
    new = bytearray(vcpu_info.sizeof)
    events.move(memoryview(new))
    assert events.upcall_mask
    assert new[0] == 1
    assert int.from_bytes(new[SEL : SEL + 8], "little") == (1 << 64) - 1
    events.upcall_mask = False
    assert new[1] == 0
    assert page[1] == 1


def test_the_clock_counts_nanoseconds_since_the_epoch() -> None:
    page, events = words()
    events.set_clock(1_000)
    clock = vcpu_time_info.unpack(page, vcpu_info.offsetof("time"))
    ticks = (5_000 - clock.tsc_timestamp) << clock.tsc_shift
    assert clock.system_time + (ticks * clock.tsc_to_system_mul >> 32) == 4_000


def test_a_32_bit_guest_has_words_of_32_bits_and_1024_ports() -> None:
    page = bytearray(4096)
    events = EventWords(memoryview(page), abi=COMPAT)
    events.set_pending(70)
    events.set_pending(1024)
    layout = COMPAT.layout(shared_info)
    assert bit(page, layout.offsetof("evtchn_pending"), 70)
    assert int.from_bytes(page[4:8], "little") == 1 << 2
    assert not any(page[layout.offsetof("evtchn_mask") : 4096])
    page[layout.offsetof("evtchn_mask")] = 1 << 5
    events.set_pending(5)
    events.clear(5)
    events.unmask(5)
    assert int.from_bytes(page[4:8], "little") == 1 << 2


def test_a_guest_that_turns_out_to_have_32_bits_finds_the_wall_clock_at_its_place() -> None:
    page, events = words()
    page[:] = shared_info(wc_version=2, wc_sec=3, wc_nsec=4, wc_sec_hi=5).pack().ljust(4096, b"\0")
    events.latch(COMPAT)
    clock = COMPAT.layout(shared_info).unpack(page)
    assert (clock.wc_version, clock.wc_sec, clock.wc_nsec, clock.arch.wc_sec_hi) == (2, 3, 4, 5)
    events.latch(NATIVE)
    assert shared_info.unpack(page).wc_sec == 3


@given(st.lists(st.tuples(st.sampled_from(["raise", "mask", "unmask"]), st.integers(0, 130)), max_size=40))
def test_a_pending_unmasked_port_is_always_selected(steps: list[tuple[str, int]]) -> None:
    page, events = words()
    for step, port in steps:
        if step == "raise":
            events.set_pending(port)
        elif step == "unmask":
            events.unmask(port)
        else:
            page[MASK + port // 8] |= 1 << port % 8
    for port in range(131):
        if bit(page, PENDING, port) and not bit(page, MASK, port):
            assert bit(page, SEL, port // 64)
            assert events.upcall_pending
