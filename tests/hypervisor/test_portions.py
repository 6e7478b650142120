"""No guest holds the core: what it can make the core do again and again in one call is cut into short portions (Q4).

A portion that held the core 95 ms, because a grant copy counted as little as an L1 entry that is looked at, left
everybody with a handful of hypercalls a second once eight guests did so; a GDT full of call gates held it 40 ms, for
nobody counted its descriptors. Negative control: with a budget that is as good as endless, one portion does it all.
"""

from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest

from hypervisor.core import Core
from hypervisor.hypercalls.call import Call, Continue
from hypervisor.hypercalls.dispatch import perform
from hypervisor.mm.budget import COST_OF_GRANT_COPY, DEFAULT_ENTRIES, Budget
from hypervisor.mm.descriptor_rules import checked, checked_page
from hypervisor.public.errno import XenError
from hypervisor.public.grant_table import GrantTableOp, gnttab_copy
from hypervisor.public.xen import Hypercall
from hypervisor.wire.messages import MAX_POSTS, POST_SIZE, pack
from scripts.benchmarks.budgets import OPERATIONS, Workbench
from tests.hypervisor.grants.granting import GrantingDomains, Guest, by_frame, granting_domains

COPIES = 60
DOMID_SELF = 0x7FF0


def copies(guest: Guest) -> tuple[int, int]:
    """(address, count) of a batch of grant copies in the guest's memory."""
    op = gnttab_copy(
        source=by_frame(DOMID_SELF, guest.page(0).mfn), dest=by_frame(DOMID_SELF, guest.page(1).mfn), len=4096
    )
    guest.poke(guest.page(400).va, op.pack() * COPIES)
    return guest.page(400).va, COPIES


def left_after_one_portion(house: GrantingDomains, budget: Budget) -> int:
    """Copies of the batch that a portion with this budget leaves to the next."""
    guest = house.dom1
    args = (int(GrantTableOp.GNTTABOP_copy), *copies(guest), 0, 0)
    call = Call(
        house.machine.hv,
        guest.built.domain,
        guest.built.vcpu,
        Hypercall.grant_table_op,
        args,
        perform,
        budget=budget,
    )
    result = perform(call)
    return result.args[2] if isinstance(result, Continue) else 0


def test_a_portion_has_as_many_copies_as_its_budget_pays_for() -> None:
    with granting_domains() as house:
        most = -(-DEFAULT_ENTRIES // COST_OF_GRANT_COPY)
        assert left_after_one_portion(house, Budget()) == COPIES - most
        assert left_after_one_portion(house, Budget(1 << 40)) == 0


@pytest.mark.parametrize("name", OPERATIONS)
def test_whatever_a_guest_can_repeat_in_one_call_spends_budget(name: str) -> None:
    with granting_domains() as house:
        _, units = OPERATIONS[name](Workbench(house))
        assert units > 0


def test_the_core_looks_at_messages_between_any_two_portions() -> None:
    with granting_domains() as house:
        machine = house.machine
        for guest in (house.dom1, house.dom2):
            machine.hv.run.request(guest.built.vcpu, guest.built.vcpu.run.seq + 1, 20)
            args = (int(GrantTableOp.GNTTABOP_copy), *copies(guest), 0, 0)
            machine.dispatcher.hypercall(guest.built.vcpu, Hypercall.grant_table_op, args, 0)
        waiting = list(machine.hv.run.continuations)
        assert len(waiting) == 2
        core = SimpleNamespace(
            hv=machine.hv, dispatcher=machine.dispatcher, _guarded=lambda *call: call[-1]()
        )
        Core._run_background(core)  # type: ignore[arg-type]
        assert waiting[1] is machine.hv.run.continuations[0]
        while machine.hv.run.continuations:
            machine.dispatcher.go_on()


def test_a_page_of_descriptors_is_checked_as_each_of_them_would_be() -> None:
    rng = np.random.default_rng(5)
    pages = rng.integers(0, 1 << 64, (20, 512), np.uint64)
    pages[:10] |= np.uint64(0xC << 40)  # many call gates, some of them permitted
    pages[:10] &= np.uint64((1 << 64) - 1 & ~(1 << 44 | 0x3 << 40 | 0xFF << 32))
    pages[:5] |= np.uint64(4 << 16)
    for page in pages:
        wanted = [either(int(descriptor)) for descriptor in page]
        if None in wanted:
            with pytest.raises(XenError):
                checked_page(page.copy())
        else:
            assert checked_page(page.copy()).tolist() == wanted


def either(descriptor: int) -> int | None:
    """The descriptor as it may be loaded; None if it is refused."""
    try:
        return checked(descriptor)
    except XenError:
        return None


def test_the_core_looks_at_timers_between_any_two_messages_full_of_posts() -> None:
    """Nobody answers them, so that a process can send one behind the other: 64 in one turn held all timers some 30 ms."""
    words = deque([(1, pack([0, bytes(POST_SIZE * MAX_POSTS)])) for _ in range(3)])
    core = object.__new__(Core)
    core._endpoint = SimpleNamespace(receive=words.popleft, readable=lambda: bool(words))  # type: ignore[assignment]
    core.hv = SimpleNamespace(busiest=SimpleNamespace(lap=lambda *_: None))  # type: ignore[assignment]
    core.links = SimpleNamespace(by_domid={1: SimpleNamespace(killed=False)})  # type: ignore[assignment]
    core._vcpu = lambda *_: None  # type: ignore[assignment, method-assign]
    core._posts = SimpleNamespace(perform=lambda *_: None)  # type: ignore[assignment]
    assert core._drain()
    assert len(words) == 2
