"""XSA-228 and XSA-382: tables that change while somebody uses them, and arrays that are overrun.

The flaws. XSA-228: two operations on one table, one growing it, raced. XSA-382: asked for more frames than a
caller's array has room for, the hypervisor wrote behind it.

The probe. A table of either version grows, and is asked to change its version, between two operations on pinned
entries, also between two portions of one batch: no frame of it moves, pins and flags stay. setup_table and
get_status_frames get every number of frames, with canaries around the array: exactly as many words are written as
frames are listed.

Negative controls: a table that moves as it grows; a list one word too long.
"""

import pytest

from hypervisor.grants.grant_table import GrantTable
from hypervisor.hypercalls import grant_table_op
from hypervisor.hypercalls.call import Call
from hypervisor.hypercalls.dispatch import perform
from hypervisor.hypercalls.grant_table_op import do_grant_table_op
from hypervisor.mm.budget import Budget
from hypervisor.public.errno import Errno
from hypervisor.public.grant_table import (
    GNTST_general_error,
    GNTST_okay,
    GrantTableOp,
    gnttab_get_status_frames,
    gnttab_map_grant_ref,
    gnttab_setup_table,
)
from hypervisor.public.types import GrantRef
from hypervisor.public.xen import DOMID_SELF
from tests.hypervisor.grants.granting import HOST, GrantingDomains, Guest, granting_domains

CANARY = b"\xa5" * 8


def grow(guest: Guest, frames: int) -> int:
    op = gnttab_setup_table(dom=DOMID_SELF, nr_frames=frames, frame_list=guest.page(20).va)
    return int(guest.one(GrantTableOp.GNTTABOP_setup_table, op).status)


def changing(house: GrantingDomains) -> None:
    """A batch of maps, cut after each; in every gap the granter changes its table."""
    granter, mapper, count = house.dom1, house.dom0, 12
    for ref in range(8, 8 + count):
        granter.offer(ref, 0, granter.page(ref).mfn)
    ops = [
        gnttab_map_grant_ref(host_addr=mapper.page(i).va, flags=HOST, ref=GrantRef(8 + i), dom=granter.domid)
        for i in range(count)
    ]
    va = mapper.page(400).va
    mapper.poke(va, b"".join(op.pack() for op in ops))
    args = (int(GrantTableOp.GNTTABOP_map_grant_ref), va, count, 0, 0)
    result: object = None
    for done in range(count):
        call = Call(
            house.machine.hv, mapper.built.domain, mapper.built.vcpu, 20, args, perform, budget=Budget(1)
        )
        result = do_grant_table_op(call)
        args = getattr(result, "args", args)
        first = granter.grants.shared.frames[0]
        assert grow(granter, done + 2) == GNTST_okay
        assert granter.grants.shared.frames[0] == first, "G1: the table moved"
        version = granter.version
        for asked in (1, 2):
            assert granter.set_version(asked) == (0 if asked == version else -Errno.EBUSY)
        house.recount()
    assert result == 0
    assert all(mapper.peek(va + i * op.sizeof, type(op)).status == GNTST_okay for i, op in enumerate(ops))
    assert len(granter.grants.active) == count


def listing(house: GrantingDomains) -> None:
    """Every number of frames, around the limits and the ends of 32 bits."""
    guest = house.dom1
    va = guest.page(20).va
    for frames in (0, 1, 2, 63, 64, 65, 2**31 - 1, 2**31, 2**32 - 1):
        for kind in (gnttab_setup_table, gnttab_get_status_frames):
            guest.poke(va, CANARY * 512)
            cmd = getattr(GrantTableOp, f"GNTTABOP_{kind.__name__.removeprefix('gnttab_')}")
            # an array of that size may reach into what is not the guest's: then nothing happens at all
            result, (op,) = guest.grant_table_op(
                cmd, kind(dom=DOMID_SELF, nr_frames=frames, frame_list=va + 8)
            )
            there = 64 if kind is gnttab_setup_table else len(guest.grants.status_frames)
            listed = frames if frames <= there else 0
            if result == 0:
                assert op.status == (GNTST_okay if listed == frames else GNTST_general_error)
            else:
                assert (result, listed) == (-Errno.EFAULT, 0)
            words = guest.loads(va, 4096)
            assert words[:8] == CANARY
            assert CANARY not in [words[i : i + 8] for i in range(8, 8 + 8 * listed, 8)]
            assert words[8 + 8 * listed :] == CANARY * (511 - listed)


@pytest.mark.parametrize("version", [1, 2])
def test_a_table_that_changes_under_its_users_stays_in_place(version: int) -> None:
    with granting_domains() as house:
        assert house.dom1.set_version(version) == 0
        changing(house)


@pytest.mark.parametrize("version", [1, 2])
def test_no_array_is_overrun(version: int) -> None:
    with granting_domains() as house:
        assert house.dom1.set_version(version) == 0
        listing(house)


def test_negative_control_a_table_that_moves_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """XSA-228: growing copies the table somewhere else."""
    real = GrantTable.grow

    def moves(self: GrantTable, nr_frames: int) -> None:
        real(self, nr_frames)
        self.shared.frames.reverse()

    monkeypatch.setattr(GrantTable, "grow", moves)
    with pytest.raises(AssertionError), granting_domains() as house:
        changing(house)


def test_negative_control_an_overrun_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """XSA-382: one word more than asked for."""
    real = grant_table_op.list_frames
    monkeypatch.setattr(
        grant_table_op, "list_frames", lambda call, va, frames, abi: real(call, va, [*frames, 7], abi)
    )
    with pytest.raises(AssertionError), granting_domains() as house:
        listing(house)
