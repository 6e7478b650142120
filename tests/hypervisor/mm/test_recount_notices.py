"""Negative controls of the master check: each mutant of memory management lacks one step, and random work finds it.

A check that finds no mutant is no check.
"""

from collections.abc import Callable

import pytest

from hypervisor.machine.frame_types import L3, PAE_XEN_L2, FrameTypes
from hypervisor.mm import (
    devalidate,
    linear,
    page_types,
    relinquish,
    update,
    update_batch,
    validate,
    xen_slots,
)
from hypervisor.mm.allocator import Allocator
from hypervisor.mm.descriptors import Descriptors
from hypervisor.mm.frame_table import FrameTable
from hypervisor.mm.page_types import PageTypes
from hypervisor.mm.pv_rules import PvRules
from tests.hypervisor.mm.test_random_memory import run_long

Patch = Callable[[pytest.MonkeyPatch], None]


def nothing(*_: object, **__: object) -> None:
    """A step that is left out."""


def linear_counters_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(linear, "put", nothing)


def old_entries_are_not_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(update, "put_page_from_l1e", nothing)


def old_tables_are_dropped_without_their_reference(patch: pytest.MonkeyPatch) -> None:
    original = PageTypes.finish_old_table

    def finish(self: PageTypes, s) -> None:  # type: ignore[no-untyped-def]
        mfn = s.vcpu.old_table
        original(self, s)
        if mfn is not None:
            self.frames.refs[mfn] += 1

    patch.setattr(PageTypes, "finish_old_table", finish)


def a_refused_table_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(validate, "give_up", nothing)


def a_parked_entry_keeps_no_reference(patch: pytest.MonkeyPatch) -> None:
    original = validate.get_page_from_upper
    patch.setattr(
        validate,
        "get_page_from_upper",
        lambda *a, partial_set, retain: original(*a, partial_set=partial_set, retain=False),
    )


def tear_down_skips_the_last_entry(patch: pytest.MonkeyPatch) -> None:
    original = devalidate.present_slots
    patch.setattr(devalidate, "present_slots", lambda table, level: original(table, level)[:-1])


def writable_uses_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    add = validate.add
    made = FrameTable.__init__

    def init(self: FrameTable, shared: FrameTypes | None = None) -> None:
        made(self, shared)
        patch.setattr(validate, "add", lambda column, mfns: column is self.tcount_np or add(column, mfns))

    patch.setattr(FrameTable, "__init__", init)


def tables_are_published_late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("hypervisor.mm.tables.Tables.publish", nothing)


def a_type_can_change_in_use(patch: pytest.MonkeyPatch) -> None:
    original = PageTypes.get_type

    def get_type(self: PageTypes, mfn: int, pgt: int, s=None) -> None:  # type: ignore[no-untyped-def]
        if self.frames.tcount[mfn] and pgt == 7 and self.frames.type[mfn] == 1:
            self.frames.tcount[mfn] += 1
            return
        original(self, mfn, pgt, s)

    patch.setattr(PageTypes, "get_type", get_type)
    patch.setattr(validate, "try_take_l1es", lambda *_: False)
    patch.setattr(update_batch, "try_updates", lambda *_: False)


def freed_frames_keep_their_type(patch: pytest.MonkeyPatch) -> None:
    def reset(self: Allocator, mfn: int) -> None:
        self.frames.refs[mfn] = self.frames.tcount[mfn] = self.frames.flags[mfn] = 0

    patch.setattr(Allocator, "_reset", reset)


def freed_frames_are_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("hypervisor.mm.extents.Extents.push", nothing)


def pages_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    original = Allocator.assign

    def assign(self: Allocator, d, first: int, order: int) -> None:  # type: ignore[no-untyped-def]
        original(self, d, first, order)
        d.tot_pages -= first % 7 == 0

    patch.setattr(Allocator, "assign", assign)


def foreign_tables_are_accepted(patch: pytest.MonkeyPatch) -> None:
    original = FrameTable.get_page
    patch.setattr(FrameTable, "get_page", lambda self, mfn, domid: original(self, mfn, self.owner[mfn]))


def an_old_gdt_is_kept(patch: pytest.MonkeyPatch) -> None:
    def drop_gdt(self: Descriptors, v) -> None:  # type: ignore[no-untyped-def]
        v.gdt_frames, v.gdt_entries = [], 0

    patch.setattr(Descriptors, "drop_gdt", drop_gdt)


def death_leaves_the_pins(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(relinquish, "PINNED", 0)


def a_second_pin_counts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("hypervisor.mm.pins.PINNED", 0)


def type_references_go_without_de_validation(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(page_types, "LEVELS", (0,) * 8)


def the_last_l2_of_a_32_bit_guest_is_a_plain_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PvRules, "child", lambda _self, level, _slot: level - 1)


def a_pae_l3_shows_all_its_entries(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(xen_slots.INSTALL, L3, nothing)


def xens_slots_of_a_pae_l2_are_what_the_guest_wrote(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(xen_slots.INSTALL, PAE_XEN_L2, nothing)


MUTANTS: list[Patch] = [
    the_last_l2_of_a_32_bit_guest_is_a_plain_one,
    a_pae_l3_shows_all_its_entries,
    xens_slots_of_a_pae_l2_are_what_the_guest_wrote,
    linear_counters_stay,
    old_entries_are_not_dropped,
    old_tables_are_dropped_without_their_reference,
    a_refused_table_is_forgotten,
    a_parked_entry_keeps_no_reference,
    tear_down_skips_the_last_entry,
    writable_uses_are_not_counted,
    tables_are_published_late,
    a_type_can_change_in_use,
    freed_frames_keep_their_type,
    freed_frames_are_lost,
    pages_are_not_counted,
    foreign_tables_are_accepted,
    an_old_gdt_is_kept,
    death_leaves_the_pins,
    a_second_pin_counts,
    type_references_go_without_de_validation,
]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_random_work_finds_the_mutant(mutant: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a failing recount, or by a state that the code itself cannot go on from."""
    mutant(monkeypatch)
    with pytest.raises((AssertionError, KeyError, OverflowError, ValueError, RecursionError)):
        run_long(3, 600)
