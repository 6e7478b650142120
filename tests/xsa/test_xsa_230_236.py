"""XSA-230 and XSA-236: pins and flags that do not agree.

The flaws. XSA-230: for a reference that was pinned both by copies and by maps, the reading and writing flags
were cleared for the wrong one. XSA-236: a pin count stayed although the frame it stood for had been let go.

The probe. One reference, a random mix of copies in and out, read-only and writable maps, and unmaps. After
each step the flags in the shared entry must be a function of what is mapped, nothing else, and the frame
must have exactly the references that the maps and their page-table entries account for.
"""

import random
from collections.abc import Callable

import pytest

from hypervisor.grants.active import GNTPIN_hstr_inc
from hypervisor.grants.grant_table import GrantTable
from hypervisor.public.grant_table import GNTST_okay, GTF_reading, GTF_writing
from hypervisor.public.types import GrantRef, VAddr
from hypervisor.public.xen import DOMID_SELF
from tests.hypervisor.grants.granting import (
    HOST,
    PERMIT,
    READONLY,
    GrantingDomains,
    by_frame,
    by_ref,
    granting_domains,
)

READING, WRITING = int(GTF_reading), int(GTF_writing)


def probe(house: GrantingDomains, *, seed: int, steps: int) -> None:
    chance = random.Random(seed)
    page, mine = house.dom1.page(0), by_frame(DOMID_SELF, house.dom0.page(40).mfn)
    house.dom1.offer(8, 0, page.mfn)
    refs, types = house.refs(page.mfn)
    maps: list[tuple[int, VAddr, int]] = []
    for step in range(steps):
        kind = chance.choice(["map", "map", "unmap", "unmap", "read", "write"])
        if kind == "map" and len(maps) < 8:
            va = house.dom0.page(step % 100).va
            flags = HOST | chance.choice([0, READONLY])
            op = house.dom0.map(house.dom1, 8, va, flags)
            assert op.status == GNTST_okay
            maps.append((op.handle, va, flags))
        elif kind == "unmap" and maps:
            handle, va, _ = maps.pop(chance.randrange(len(maps)))
            assert house.dom0.unmap(handle, va) == GNTST_okay
        elif kind == "read":
            assert house.dom0.copy(by_ref(1, 8), mine, 64, 1) == GNTST_okay
        elif kind == "write":
            assert house.dom0.copy(mine, by_ref(1, 8), 64, 2) == GNTST_okay
        writers = sum(not flags & READONLY for _, _, flags in maps)
        wanted = (READING if maps else 0) | (WRITING if writers else 0)
        assert house.dom1.entry(8).flags == PERMIT | wanted, f"flags after {kind} in step {step}"
        assert house.refs(page.mfn) == (refs + 2 * len(maps), types + 2 * writers), f"{kind} in step {step}"


@pytest.mark.parametrize("seed", range(4))
def test_flags_are_a_function_of_the_pins(seed: int) -> None:
    with granting_domains() as house:
        probe(house, seed=seed, steps=120)


def clears_always(self: GrantTable, ref: GrantRef, pin: int, *, readonly: bool) -> None:
    """XSA-230: the end of a copy clears the flags, whoever else uses the entry."""
    self.shared.clear_flags(ref, READING | WRITING)


def clears_never(self: GrantTable, ref: GrantRef, pin: int, *, readonly: bool) -> None:
    """… and the other way round."""


@pytest.mark.parametrize("mutant", [clears_always, clears_never])
def test_negative_control_flags_that_follow_something_else_are_noticed(
    mutant: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GrantTable, "_withdraw", mutant)
    with pytest.raises(AssertionError), granting_domains() as house:
        probe(house, seed=1, steps=120)


def test_negative_control_a_copy_that_keeps_its_pin_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """XSA-236."""
    real = GrantTable.release

    def keeps_it(self: GrantTable, ref: GrantRef, decrement: int, *, readonly: bool) -> None:
        if decrement != GNTPIN_hstr_inc or len(self.active) != 1 or self.active[ref].pin != decrement:
            real(self, ref, decrement, readonly=readonly)

    monkeypatch.setattr(GrantTable, "release", keeps_it)
    with pytest.raises(AssertionError), granting_domains() as house:
        probe(house, seed=1, steps=120)
