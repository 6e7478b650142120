"""XSA-29, XSA-212: exchange writes its results outside the guest's memory.

The flaw. XENMEM_exchange checked that the start of the output array is the guest's, but wrote at an index
that the guest chose through nr_exchanged and the sizes of the extents: into the hypervisor, at any distance
from the start.

The probe. Sizes, orders and nr_exchanged near every power of two up to 2^64, with arrays whose start is fine
and whose used part lies elsewhere: always an error without any effect, and a page before and behind the
array is as it was. Negative control: without the range check an array just below the hypervisor is taken as
far as its start goes.
"""

from itertools import product

import pytest

from hypervisor.hypercalls import memory_exchange
from hypervisor.public.arch_x86.xen_x86_64 import HYPERVISOR_VIRT_START
from hypervisor.public.errno import Errno
from hypervisor.public.memory import XENMEM_exchange, xen_memory_exchange, xen_memory_reservation
from hypervisor.public.xen import DOMID_SELF
from tests.hypervisor.mm.caller import Caller, callers

SIZES = [0, 1, 2, 1 << 31, 1 << 32, 1 << 55, 1 << 60, 1 << 61, (1 << 61) + 1, (1 << 63) + 1, (1 << 64) - 1]


def request(guest: Caller, sizes: tuple[int, int], orders: tuple[int, int], done: int, at: int) -> bytes:
    def side(count: int, order: int, start: int) -> xen_memory_reservation:
        return xen_memory_reservation(
            extent_start=start, nr_extents=count, extent_order=order, domid=DOMID_SELF
        )

    middle = guest.scratch + 0x800
    return xen_memory_exchange(
        in_=side(sizes[0], orders[0], middle), out=side(sizes[1], orders[1], at), nr_exchanged=done
    ).pack()


def test_no_size_reaches_beyond_the_guests_memory() -> None:
    with callers() as (_, guest):
        canary = bytes(range(256)) * 3
        guest.put(canary, 0x100)
        guest.put(canary, 0xC00)
        for size, done, (o_in, o_out) in product(SIZES, SIZES, [(0, 0), (0, 9), (9, 0), (1, 63)]):
            out_size = size << o_in >> o_out & (1 << 64) - 1
            arg = guest.put(request(guest, (size, out_size), (o_in, o_out), done, guest.scratch + 0x800))
            before = guest.d.tot_pages
            result = guest.memory_op(XENMEM_exchange, arg)
            assert result < 0 or (result == 0 and done == size)
            assert guest.d.tot_pages == before
            assert guest.get(0x100, len(canary)) == canary
            assert guest.get(0xC00, len(canary)) == canary


def below_the_hypervisor(guest: Caller) -> int:
    """An exchange of one frame whose output slot is the first word of the hypervisor's range."""
    given = guest.spare(3)
    guest.numbers(given, 0x800)
    at = HYPERVISOR_VIRT_START - 16
    return guest.memory_op(XENMEM_exchange, guest.put(request(guest, (3, 3), (0, 0), 2, at)))


def test_an_index_into_the_hypervisor_is_refused_as_a_whole() -> None:
    with callers() as (_, guest):
        checked = []
        original = memory_exchange.exchange_chunk
        memory_exchange.exchange_chunk = lambda *a: checked.append(a)
        try:
            assert below_the_hypervisor(guest) == -Errno.EFAULT
        finally:
            memory_exchange.exchange_chunk = original
        assert checked == []


def test_without_the_range_check_the_exchange_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped only where each slot is looked up: the second wall."""
    monkeypatch.setattr(memory_exchange, "range_ok", lambda va, size: True)
    with callers() as (_, guest):
        reached = []
        original = memory_exchange.exchange_chunk

        def noted(*args: object) -> None:
            reached.append(args)
            original(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(memory_exchange, "exchange_chunk", noted)
        assert below_the_hypervisor(guest) == -Errno.EFAULT
        assert reached
