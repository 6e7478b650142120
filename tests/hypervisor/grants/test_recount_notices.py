"""Negative controls: each mutation takes one check of the grants away, and the random operations must find it."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from hypervisor.grants import copying, mapping
from hypervisor.grants.active import Active
from hypervisor.grants.grant_table import GrantTable
from hypervisor.grants.maptrack import Maptrack
from hypervisor.mm.grant_entries import GrantEntries
from tests.hypervisor.grants.random_house import versions, who
from tests.hypervisor.grants.test_random_grants import RandomGrants


def flags_stay(patch: pytest.MonkeyPatch) -> None:
    """G11: the flags outlive the last pin."""
    patch.setattr(GrantTable, "_withdraw", lambda self, ref, pin, *, readonly: None)


def anyone_may_use_it(patch: pytest.MonkeyPatch) -> None:
    """G2: the first pin asks nobody."""
    patch.setattr(GrantTable, "_announce", lambda self, ref, user, active, **kind: None)


def device_references_leak(patch: pytest.MonkeyPatch) -> None:
    """G4, G7: what a device part held is never dropped."""
    drop = mapping.drop_parts
    patch.setattr(mapping, "drop_parts", lambda granter, mfn, flags: drop(granter, mfn, flags & ~1))


def both_parts_at_once(patch: pytest.MonkeyPatch) -> None:
    """XSA-224: a partial unmap drops the references of both parts."""
    drop = mapping.drop_parts
    patch.setattr(
        mapping, "drop_parts", lambda granter, mfn, flags: drop(granter, mfn, flags | (flags & 2) >> 1)
    )


def stale_handles_are_good(patch: pytest.MonkeyPatch) -> None:
    """G6: a handle that was given back can be used again."""
    gone: dict[tuple[int, int], Any] = {}
    get, remove = Maptrack.get, Maptrack.remove

    def remember(self: Maptrack, handle: int) -> None:
        gone[id(self), handle] = self._records[handle]
        remove(self, handle)

    patch.setattr(Maptrack, "remove", remember)
    patch.setattr(
        Maptrack, "get", lambda self, h: gone[id(self), h] if (id(self), h) in gone else get(self, h)
    )


def any_entry_will_do(patch: pytest.MonkeyPatch) -> None:
    """G8: unmap clears whatever is at the address."""

    def replace(self: GrantEntries, v: Any, addr: int, mfn: int, flags: int, new: int) -> None:
        l1, slot = self._find(v, addr, flags)
        self.types.tables.write_entry(l1, slot, new)

    patch.setattr(GrantEntries, "_replace", replace)


def a_copy_keeps_a_reference(patch: pytest.MonkeyPatch) -> None:
    """G13: a copy holds on to its destination."""
    let_go = copying.End.let_go

    def keeps(self: copying.End, active: Active) -> None:
        if not self._readonly:
            self.owner.mmu.frames.get_page(active.mfn, self.owner.domid)
        let_go(self, active)

    patch.setattr(copying.End, "let_go", keeps)


def status_frames_go_in_use(patch: pytest.MonkeyPatch) -> None:
    """G15: a return to version 1 asks nobody who has the status frames (XSA-255)."""

    def freed(self: GrantTable) -> None:
        while self.status_frames:
            self.mmu.allocator.free_xen_page(self.status_frames.pop())

    patch.setattr(GrantTable, "unpopulate_status", freed)


def any_part_is_all_of_it(patch: pytest.MonkeyPatch) -> None:
    """G13: a copy goes beyond what is granted of a frame."""
    patch.setattr(copying, "require_within", lambda part, offset, length: None)


class ManyVersions(RandomGrants):
    """Tables change their versions more often than in the random test, with their status frames mapped or not."""

    @rule(d=who, version=versions, change=st.sampled_from([0, 0x61, 0x63]))
    def change_version(self, d: int, version: int, change: int) -> None:
        self.set_version(d, version, change, True)


MUTATIONS = [
    status_frames_go_in_use,
    any_part_is_all_of_it,
    flags_stay,
    anyone_may_use_it,
    device_references_leak,
    both_parts_at_once,
    stale_handles_are_good,
    any_entry_will_do,
    a_copy_keeps_a_reference,
]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_random_operations_find_a_missing_check(
    mutation: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation(monkeypatch)
    once = settings(
        max_examples=2000,  # what is drawn depends on which modules this process has loaded
        stateful_step_count=40,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        derandomize=True,
    )
    operations = ManyVersions if mutation is status_frames_go_in_use else RandomGrants
    with pytest.raises((AssertionError, KeyError, ValueError, ExceptionGroup)):
        run_state_machine_as_test(operations, settings=once)
