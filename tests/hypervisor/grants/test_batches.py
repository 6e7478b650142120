"""grant_table_op as a hypercall: batches, queries, and what a guest that asks nonsense gets (G1,
G15–G17).
"""

import pytest

from hypervisor.hypercalls.call import Call, Continue
from hypervisor.hypercalls.dispatch import perform
from hypervisor.hypercalls.grant_table_op import BATCHED, SINGLE, do_grant_table_op
from hypervisor.mm.budget import Budget
from hypervisor.public.errno import Errno
from hypervisor.public.grant_table import (
    GNTMAP_device_map,
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_bad_virt_addr,
    GNTST_general_error,
    GNTST_okay,
    GNTST_permission_denied,
    GrantTableOp,
    gnttab_get_status_frames,
    gnttab_get_version,
    gnttab_map_grant_ref,
    gnttab_query_size,
    gnttab_setup_table,
    gnttab_swap_grant_ref,
)
from hypervisor.public.types import DomId, GrantRef
from hypervisor.public.xen import DOMID_SELF, Hypercall
from tests.hypervisor.grants.granting import GrantingDomains, Guest

OPS = [int(op) for op in GrantTableOp]


def test_every_operation_has_one_handler() -> None:
    assert not BATCHED.keys() & SINGLE.keys()
    assert BATCHED.keys() | SINGLE.keys() == set(OPS) - {GrantTableOp.GNTTABOP_dump_table}


def test_unknown_operations_are_enosys_and_odd_counts_einval(house: GrantingDomains) -> None:
    va = house.dom1.page(0).va
    for cmd in (int(GrantTableOp.GNTTABOP_dump_table), 13, 0xFFF):
        assert house.dom1.hypercall(Hypercall.grant_table_op, cmd, va, 1) == -Errno.ENOSYS
    for cmd in (0x1000, 0x1000 | GrantTableOp.GNTTABOP_copy, 2**31):
        assert house.dom1.hypercall(Hypercall.grant_table_op, cmd, va, 1) == -Errno.EINVAL
    for count in (2**31, 2**32 - 1):
        assert house.dom1.hypercall(Hypercall.grant_table_op, 0, va, count) == -Errno.EINVAL


def test_an_empty_batch_is_fine(house: GrantingDomains) -> None:
    for cmd in BATCHED:
        assert house.dom1.hypercall(Hypercall.grant_table_op, cmd, house.dom1.page(0).va, 0) == 0


@pytest.mark.parametrize("va", [0xFFFF_8000_0000_0000, 0x8000_0000_0000_0000, 2**64 - 8, 0x1000])
def test_an_array_that_is_not_the_guests_is_efault(house: GrantingDomains, va: int) -> None:
    for cmd in BATCHED:
        assert house.dom1.hypercall(Hypercall.grant_table_op, cmd, va, 2) == -Errno.EFAULT


def test_a_long_batch_is_performed_to_its_end_and_each_operation_once(house: GrantingDomains) -> None:
    """128 device maps fit into one entry; the batch asks for 200: each structure has the status that is its
    own.
    """
    house.dom1.offer(8, 0, house.dom1.page(0).mfn)
    ops = [
        gnttab_map_grant_ref(flags=int(GNTMAP_device_map), ref=GrantRef(8), dom=house.dom1.domid, status=99)
        for _ in range(200)
    ]
    result, records = house.dom0.grant_table_op(GrantTableOp.GNTTABOP_map_grant_ref, *ops)
    assert result == 0
    assert [record.status for record in records] == [GNTST_okay] * 128 + [GNTST_general_error] * 72
    assert len({record.handle for record in records[:128]}) == 128
    assert house.dom1.grants.active[GrantRef(8)].pin == 128 << 16


@pytest.mark.parametrize("budget", [1, 8, 9, 24])
def test_a_portion_ends_with_its_budget_and_the_next_goes_on_behind_it(
    house: GrantingDomains, budget: int
) -> None:
    """Each portion does at least one operation, and hands over exactly the rest (Q4, XSA-318)."""
    guest, count = house.dom1, 20
    size = gnttab_swap_grant_ref.sizeof
    va = guest.page(0).va
    guest.poke(va, gnttab_swap_grant_ref(ref_a=2**20, status=77).pack() * count)
    args: tuple[int, int, int, int, int] = (int(GrantTableOp.GNTTABOP_swap_grant_ref), va, count, 0, 0)
    done = 0
    while True:
        call = Call(
            house.machine.hv, guest.built.domain, guest.built.vcpu, 20, args, perform, budget=Budget(budget)
        )
        result = do_grant_table_op(call)
        left = result.args[2] if isinstance(result, Continue) else 0
        statuses = [guest.peek(va + i * size, gnttab_swap_grant_ref).status for i in range(count)]
        assert count - left > done
        done = count - left
        assert statuses == [GNTST_bad_gntref] * done + [77] * left
        if result == 0:
            break
        assert isinstance(result, Continue)
        assert result.args[1] == va + done * size
        args = result.args
    assert done == count


def test_a_hole_in_the_middle_keeps_what_came_before(house: GrantingDomains) -> None:
    """The second structure lies in an unmapped page: EFAULT, and the first was performed and answered."""
    second = house.dom1.page(11)
    house.dom1.update_va_mapping(second.va, 0)
    size = gnttab_swap_grant_ref.sizeof
    at = second.va - size
    house.dom1.poke(at, gnttab_swap_grant_ref(ref_a=1, ref_b=2**20, status=77).pack())
    result = house.dom1.hypercall(Hypercall.grant_table_op, GrantTableOp.GNTTABOP_swap_grant_ref, at, 2)
    assert result == -Errno.EFAULT
    assert house.dom1.peek(at, gnttab_swap_grant_ref).status == GNTST_bad_gntref


# --- one at a time ----------------------------------------------------------------------------------------


def setup(guest: Guest, dom: int, frames: int, va: int | None = None) -> tuple[int, int]:
    op = gnttab_setup_table(
        dom=DomId(dom), nr_frames=frames, frame_list=guest.page(20).va if va is None else va
    )
    result, (record,) = guest.grant_table_op(GrantTableOp.GNTTABOP_setup_table, op)
    return result, record.status


def test_a_table_grows_to_its_limit_and_its_frames_stay(house: GrantingDomains) -> None:
    guest = house.dom1
    assert setup(guest, DOMID_SELF, 1) == (0, GNTST_okay)
    first = list(guest.grants.shared.frames)
    assert setup(guest, DOMID_SELF, 64) == (0, GNTST_okay)
    assert guest.grants.shared.frames[:1] == first
    listed = guest.loads(guest.page(20).va, 64 * 8)
    assert listed == b"".join(mfn.to_bytes(8, "little") for mfn in guest.grants.shared.frames)
    for frames in (65, 2**31, 2**32 - 1):
        assert setup(guest, DOMID_SELF, frames, 0x1000)[1] == GNTST_general_error
    assert setup(guest, DOMID_SELF, 2) == (0, GNTST_okay)
    assert len(guest.grants.shared.frames) == 64


def test_a_list_that_cannot_be_written_is_told_so(house: GrantingDomains) -> None:
    assert setup(house.dom1, DOMID_SELF, 1, 0x1000) == (0, GNTST_bad_virt_addr)
    assert setup(house.dom1, DOMID_SELF, 1, 0xFFFF_8000_0000_0000)[0] == -Errno.EFAULT


def test_only_a_privileged_domain_asks_about_others(house: GrantingDomains) -> None:
    assert setup(house.dom1, 2, 1) == (0, GNTST_permission_denied)
    assert setup(house.dom1, 77, 1) == (0, GNTST_bad_domain)
    assert setup(house.dom0, 1, 2) == (0, GNTST_okay)
    assert len(house.dom1.grants.shared.frames) == 2
    op = gnttab_query_size(dom=DomId(2))
    assert house.dom1.one(GrantTableOp.GNTTABOP_query_size, op).status == GNTST_permission_denied
    answer = house.dom0.one(GrantTableOp.GNTTABOP_query_size, gnttab_query_size(dom=DomId(1)))
    assert (answer.status, answer.nr_frames, answer.max_nr_frames) == (GNTST_okay, 2, 64)
    for dom, errno in ((2, Errno.EPERM), (77, Errno.ESRCH)):
        asked = gnttab_get_version(dom=DomId(dom))
        assert house.dom1.grant_table_op(GrantTableOp.GNTTABOP_get_version, asked)[0] == -errno


def test_a_version_1_table_has_no_status_frames(house: GrantingDomains) -> None:
    for frames, status in ((0, GNTST_okay), (1, GNTST_general_error), (2**32 - 1, GNTST_general_error)):
        op = gnttab_get_status_frames(dom=DOMID_SELF, nr_frames=frames, frame_list=0x1000)
        answer = house.dom1.one(GrantTableOp.GNTTABOP_get_status_frames, op)
        assert answer.status == status
