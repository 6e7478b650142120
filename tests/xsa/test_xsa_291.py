"""XSA-291: a type reference kept after a later step of taking it had failed.

The flaw. Taking a page's type had a step after the count was raised that could fail (mapping it for devices); on that
path the count stayed, and the page could never be freed or changed again.

The probe. Each step on the way to a type reference fails in turn: the flush, the copy of the frame, the validation,
the linear rule, the write-back: counts and types are afterwards as if nothing had been asked. Negative control: a
validation that forgets to take back the type word is noticed.
"""

import pytest

from hypervisor.machine.frame_types import VALIDATED
from hypervisor.machine.paging import pte
from hypervisor.mm import descriptor_rules, linear, validate
from hypervisor.mm.page_types import PageTypes
from hypervisor.public.errno import Errno, XenError
from tests.hypervisor.mm.small_machine import RW, Guest, SmallMachine, small_machine


def refuse(*_: object, **__: object) -> None:
    raise XenError(Errno.EINVAL, "injected")


STEPS = [
    (validate, "promote_l1"),
    (validate, "try_take_l1es"),
    (validate, "get_page_from_upper"),
    (validate, "promote_upper"),
    (validate, "promote"),
    (linear, "get"),
    (descriptor_rules, "checked_page"),
]


def counts(guest: Guest) -> list[bytes]:
    frames, top = guest.mmu.frames, guest.mmu.frames.top
    return [c[:top].tobytes() for c in (frames.refs_np, frames.type_np, frames.tcount_np, frames.flags_np)]


@pytest.mark.parametrize(("module", "step"), STEPS, ids=[name for _, name in STEPS])
def test_a_failing_step_leaves_every_count_as_it_was(
    module: object, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_machine() as machine:
        guest = machine.domain(16)
        l4, l3, l2 = guest.tower([guest.l1(guest.take(3))])
        descriptors = guest.table([])
        attempts = [(l4, 4), (l3, 3), (l2, 2), (guest.l1(guest.take(1)), 1)]
        before = counts(guest)
        with monkeypatch.context() as patched:
            patched.setattr(module, step, refuse)
            for mfn, level in attempts:
                try:
                    guest.pin(mfn, level)
                except XenError:
                    machine.recount()
                else:
                    guest.unpin(mfn)
            try:
                guest.mmu.descriptors.set_gdt(guest.v, [descriptors], 512)
            except XenError:
                machine.recount()
        guest.mmu.descriptors.set_gdt(guest.v, [], 0)
        assert counts(guest)[0] == before[0]
        assert not machine.mmu.frames.tcount_np[list(guest.pages)].any()
        for mfn, level in attempts:
            guest.pin(mfn, level)
            guest.unpin(mfn)


def test_a_type_word_that_is_not_taken_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: PageTypes, mfn: int, pgt: int, s: object, *, resumed: bool) -> None:
        self.tables.take_copy(mfn)
        validate.promote(self, mfn, pgt, s)  # type: ignore[arg-type]
        self.frames.flags[mfn] |= VALIDATED

    monkeypatch.setattr(PageTypes, "_validate", forgetful)
    machine = SmallMachine()
    guest = machine.domain(8)
    with pytest.raises(AssertionError):
        guest.pin(guest.table([pte(1 << 30, RW)]), 1)
    machine.close()
