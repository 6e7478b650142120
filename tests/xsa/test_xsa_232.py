"""XSA-232: a frame whose owner has no grant table.

The flaw. GNTTABOP_cache_flush took any machine address, looked up the frame's owner and used the owner's
grant table; frames of the hypervisor itself belong to a special domain without one.

The probe. The operation, and every other that accepts a frame number, gets frames of every kind of owner:
nobody, the hypervisor, the M2P table, another domain, another domain that grants it, oneself, and numbers
beyond the machine.
"""

import pytest

from hypervisor.grants import cache_flush
from hypervisor.public.errno import Errno
from hypervisor.public.grant_table import (
    GNTMAP_device_map,
    GrantTableOp,
    gnttab_cache_flush,
    gnttab_cache_flush_a,
)
from hypervisor.public.types import PAGE_SHIFT
from hypervisor.public.xen import DOMID_SELF, Hypercall
from tests.hypervisor.grants.granting import GrantingDomains, Guest, by_frame, granting_domains

CLEAN, INVAL, BY_REF = 1, 2, 1 << 31
XEN_FRAMES = [0, 1, 2, 3, 1024, 33791]
NOBODYS = [40_000_0, 2**24 - 1, 2**24, 2**40, 2**51]


def flush(guest: Guest, mfn: int, op: int = CLEAN, offset: int = 0, length: int = 64) -> int:
    record = gnttab_cache_flush(
        a=gnttab_cache_flush_a(dev_bus_addr=mfn << PAGE_SHIFT & 2**64 - 1),
        offset=offset,
        length=length,
        op=op,
    )
    guest.poke(guest.page(400).va, record.pack())
    args = (GrantTableOp.GNTTABOP_cache_flush, guest.page(400).va, 1)
    return int(guest.hypercall(Hypercall.grant_table_op, *args))


def probe(house: GrantingDomains) -> None:
    guest, other = house.dom1, house.dom2
    for mfn in [*XEN_FRAMES, *NOBODYS, other.page(0).mfn, other.built.domain.shared_info]:
        assert flush(guest, mfn) in (-Errno.EPERM, -Errno.EINVAL), f"frame {mfn:#x}"
        assert guest.copy(by_frame(DOMID_SELF, mfn), by_frame(DOMID_SELF, guest.page(0).mfn), 8, 0) < 0
        assert guest.copy(by_frame(DOMID_SELF, guest.page(0).mfn), by_frame(DOMID_SELF, mfn), 8, 0) < 0
    assert flush(guest, guest.page(0).mfn) == 0
    assert house.machine.hv.counters["hypervisor bugs"] == 0


def test_only_ones_own_frames_and_those_one_is_granted_are_flushed() -> None:
    with granting_domains() as house:
        probe(house)
        page = house.dom1.page(0)
        house.dom1.offer(8, 0, page.mfn)
        assert flush(house.dom0, page.mfn) == -Errno.EINVAL
        op = house.dom0.map(house.dom1, 8, 0, int(GNTMAP_device_map))
        assert flush(house.dom0, page.mfn) == 0
        assert flush(house.dom2, page.mfn) == -Errno.EINVAL
        house.dom0.unmap(op.handle, 0, op.dev_bus_addr)
        assert flush(house.dom0, page.mfn) == -Errno.EINVAL


def test_ranges_and_operations_are_checked() -> None:
    with granting_domains() as house:
        guest = house.dom1
        mfn = guest.page(0).mfn
        for offset, length in ((4096, 0), (4096, 1), (4095, 2), (65535, 65535), (0, 4097)):
            assert flush(guest, mfn, CLEAN, offset, length) == -Errno.EINVAL
        for op in (4, 0x10, 0xFFFF_FFFF):
            assert flush(guest, mfn, op) == -Errno.EINVAL
        for op, result in (
            (0, 0),
            (CLEAN | INVAL, 0),
            (INVAL, -Errno.EOPNOTSUPP),
            (CLEAN | BY_REF, -Errno.EOPNOTSUPP),
        ):
            assert flush(guest, mfn, op) == result
        assert flush(guest, 1, CLEAN, 0, 0) == 0


def test_negative_control_a_frame_nobody_asks_about_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_flush, "require_frame", lambda caller, mfn: None)
    # The bug ends the caller's domain (H3), so its hypercall may have no result at all.
    with pytest.raises((AssertionError, TypeError)), granting_domains() as house:
        probe(house)
