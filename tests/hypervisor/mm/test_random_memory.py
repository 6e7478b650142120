"""Random work of several vCPUs in tiny portions, with every count checked after every portion (F1-F14, P1-P11, Q1-Q5).

Three domains, one of them in control and one of 32 bits, two vCPUs each. A vCPU starts an operation and goes on with it in
portions of a few entries whenever it is its turn, so operations on the same tables interleave at every point at which they
can stop. Tables have few entries, some in the first slots and one in the last, and mostly name tables of the level that would
be right. A domain may die at any moment, in portions too, and must leave nothing.
"""

import os
import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hypervisor.machine.frame_types import ALLOCATED, LEVELS, PAE_XEN_L2, PARTIAL, PINNED
from hypervisor.machine.paging import pte
from hypervisor.mm.budget import Budget, Portion, Restart
from hypervisor.mm.domain_memory import VcpuMemory
from hypervisor.public.errno import XenError
from hypervisor.public.xen import DOMID_SELF
from tests.hypervisor.mm.small_machine import RO, RW, Guest, SmallMachine

NR_FRAMES = 20
SLOTS = st.sampled_from([0, 1, 2, 3, 300, 511])
FLAGS = st.sampled_from([RW, RW, RO, RO, 0, RW | 1 << 3, RW | 1 << 7])
ANY_LEVEL = st.integers(1, 4)
WHO = st.integers(0, 2)
FRAME = st.integers(0, NR_FRAMES - 1)
PORTION = st.sampled_from([1, 1, 1, 2, 3, 700])

Operation = Callable[[Portion], None]


class RandomMemory(RuleBasedStateMachine):
    """The model is the recount; operations may be refused as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = SmallMachine()
        self.guests = [self.fresh(privileged=True), self.fresh(), self.fresh_of_32_bits()]
        self.running: dict[VcpuMemory, Operation] = {}

    def fresh(self, *, privileged: bool = False) -> Guest:
        """A domain with a tower of tables in its first frames, and a second L4, L3 and L2 that share its lower levels."""
        guest = self.machine.domain(NR_FRAMES, max_pages=NR_FRAMES + 4, privileged=privileged, nr_vcpus=2)
        p = guest.pages
        entries = [(0, 0, 2, RW), (0, 1, 3, RW), (1, 0, 3, RW), (2, 0, 4, RW), (2, 511, 5, RW), (3, 0, 5, RW)]
        entries += [
            (4, 0, 6, RW),
            (4, 1, 7, RW),
            (5, 0, 7, RW),
            (5, 3, 6, RO),
            (6, 0, 10, RW),
            (6, 1, 11, RO),
        ]
        entries += [
            (7, 0, 12, RW),
            (7, 511, 6, RO),
            (8, 0, 12, RO),
            (9, 0, 6, RW),
            (9, 1, 4, RO),
            (9, 2, 8, RW),
        ]
        for table, slot, named, flags in entries:
            guest.write(p[table], slot, pte(p[named], flags))
        guest.pin(p[0], 4)
        guest.pin(p[3], 3)
        return guest

    def fresh_of_32_bits(self) -> Guest:
        """The same with L3s on top, whose last L2s are their own; there is something of the guest's in Xen's slots of these."""
        guest = self.machine.domain(NR_FRAMES, max_pages=NR_FRAMES + 4, nr_vcpus=2, address_size=32)
        p = guest.pages
        for table, slot, named, flags in [
            *((0, 0, 4, RO), (0, 1, 5, RO), (0, 3, 8, RO), (0, 511, 4, RW), (1, 0, 5, RO), (1, 3, 9, RO)),
            *((4, 0, 6, RW), (4, 1, 7, RW), (5, 0, 7, RW), (5, 3, 4, RO)),
            *((6, 0, 10, RW), (6, 1, 11, RO), (7, 0, 12, RW), (7, 511, 6, RO)),
            *((8, 0, 6, RW), (8, 511, 8, RO), (9, 1, 7, RW), (9, 428, 10, RW), (3, 0, 7, RW)),
        ]:
            guest.write(p[table], slot, pte(p[named], flags))
        guest.pin(p[0], 3)
        guest.pin(p[3], 2)
        return guest

    def teardown(self) -> None:
        for guest in self.guests:
            self.kill(guest, 1)
        self.machine.close()

    @invariant()
    def every_count_is_right(self) -> None:
        self.machine.recount()

    # --- what a guest does without asking ---------------------------------------------------------------

    def is_plain(self, guest: Guest, mfn: int) -> bool:
        """The guest may have the frame mapped writable."""
        frames = guest.mmu.frames
        in_use = frames.tcount[mfn] and 1 <= frames.type[mfn] <= PAE_XEN_L2
        return frames.owner[mfn] == guest.d.domid and not in_use and not frames.flags[mfn] & PARTIAL

    @rule(who=WHO, frame=FRAME, level=ANY_LEVEL, picks=st.lists(st.tuples(SLOTS, FRAME, FLAGS), max_size=4))
    def write_a_table(self, who: int, frame: int, level: int, picks: list[tuple[int, int, int]]) -> None:
        guest = self.guests[who]
        mfn = guest.pages[frame]
        if self.is_plain(guest, mfn):
            self.machine.memory.frames[mfn] = 0
            for slot, pick, flags in picks:
                guest.write(mfn, slot, pte(self.target(guest, level, pick), flags))

    def target(self, guest: Guest, level: int, pick: int) -> int:
        """A frame that could stand in an entry of a table of `level`; one time in five, any frame."""
        below = level - 1
        likely = (
            [m for m in guest.pages if LEVELS[guest.mmu.frames.type[m]] in (below, level)]
            if below
            else guest.pages
        )
        return likely[pick % len(likely)] if likely and pick % 5 else guest.pages[pick]

    # --- operations in portions -------------------------------------------------------------------------------

    def start(self, who: int, vcpu: int, operation: Callable[[Guest, Portion], None]) -> None:
        """The vCPU begins an operation, when it has finished the one before."""
        guest = self.guests[who]
        v = guest.d.vcpus[vcpu]
        while v in self.running:
            self.turn(v, 1)
        self.running[v] = lambda s: operation(guest, s)
        self.turn(v, 1)

    @rule(who=WHO, vcpu=st.integers(0, 1), frame=FRAME, level=ANY_LEVEL)
    def pin(self, who: int, vcpu: int, frame: int, level: int) -> None:
        self.start(who, vcpu, lambda g, s: g.mmu.pins.pin(g.pages[frame], level, g.d, s))

    @rule(who=WHO, vcpu=st.integers(0, 1), frame=FRAME)
    def unpin(self, who: int, vcpu: int, frame: int) -> None:
        self.start(who, vcpu, lambda g, s: g.mmu.pins.unpin(g.pages[frame], g.d, s))

    @rule(who=WHO, vcpu=st.integers(0, 1), frame=FRAME, user=st.booleans())
    def load_base(self, who: int, vcpu: int, frame: int, user: bool) -> None:
        def operation(g: Guest, s: Portion) -> None:
            (g.mmu.bases.new_user_baseptr if user else g.mmu.bases.new_baseptr)(s.vcpu, g.pages[frame], s)

        self.start(who, vcpu, operation)

    @rule(
        who=WHO,
        vcpu=st.integers(0, 1),
        frame=FRAME,
        slot=SLOTS,
        pick=FRAME,
        flags=FLAGS,
        command=st.integers(0, 4),
    )
    def update(self, who: int, vcpu: int, frame: int, slot: int, pick: int, flags: int, command: int) -> None:
        def operation(g: Guest, s: Portion) -> None:
            level = LEVELS[g.mmu.frames.type[g.pages[frame]]]
            value = pte(self.target(g, level, pick), flags)
            request(g, s, g.pages[frame] << 12 | slot << 3 | command, value, DOMID_SELF)

        self.start(who, vcpu, operation)

    @rule(vcpu=st.integers(0, 1), frame=FRAME, slot=SLOTS, whose=WHO, pick=FRAME, flags=FLAGS)
    def map_foreign(self, vcpu: int, frame: int, slot: int, whose: int, pick: int, flags: int) -> None:
        def operation(g: Guest, s: Portion) -> None:
            other = self.guests[whose]
            request(g, s, g.pages[frame] << 12 | slot << 3, pte(other.pages[pick], flags), other.d.domid)

        self.start(0, vcpu, operation)

    @rule(who=WHO, vcpu=st.integers(0, 1), picks=st.lists(FRAME, min_size=1, max_size=3))
    def exchange(self, who: int, vcpu: int, picks: list[int]) -> None:
        def operation(g: Guest, s: Portion) -> None:
            new = g.mmu.reservation.exchange_chunk(g.d, [g.pages[i] for i in picks], list(picks), 0)
            for i, mfn in zip(picks, new, strict=True):
                g.pages[i] = mfn

        self.start(who, vcpu, operation)

    @rule(who=WHO, vcpu=st.integers(0, 1), frame=FRAME)
    def give_back_and_take(self, who: int, vcpu: int, frame: int) -> None:
        def operation(g: Guest, s: Portion) -> None:
            g.mmu.reservation.remove_page(g.d, g.pages[frame])
            g.pages[frame] = g.mmu.reservation.increase(g.d, 0)

        self.start(who, vcpu, operation)

    @rule(who=WHO, vcpu=st.integers(0, 1), picks=st.lists(FRAME, max_size=2))
    def set_gdt(self, who: int, vcpu: int, picks: list[int]) -> None:
        def operation(g: Guest, s: Portion) -> None:
            g.mmu.descriptors.set_gdt(s.vcpu, [g.pages[i] for i in picks], 512 * len(picks))

        self.start(who, vcpu, operation)

    @rule(who=WHO, vcpu=st.integers(0, 1), frame=FRAME, source=FRAME)
    def copy_page(self, who: int, vcpu: int, frame: int, source: int) -> None:
        self.start(who, vcpu, lambda g, s: g.mmu.pins.copy_page(g.pages[frame], g.pages[source], g.d.domid))

    @precondition(lambda self: self.running)
    @rule(turn=st.integers(0, 5), entries=PORTION, times=st.integers(1, 4))
    def go_on(self, turn: int, entries: int, times: int) -> None:
        """Some slices of the operations that have begun, if any have."""
        for _ in range(times):
            if self.running:
                self.turn(list(self.running)[turn % len(self.running)], entries)

    def turn(self, v: VcpuMemory, entries: int) -> None:
        """One portion of the vCPU's operation, as the hypercall layer does it (U9)."""
        s = Portion(v, Budget(entries))
        try:
            self.machine.mmu.types.finish_old_table(s)
            self.running[v](s)
        except Restart:
            pass
        except XenError:
            del self.running[v]
        else:
            del self.running[v]
        self.machine.recount()

    # --- written down and read back ----------------------------------------------------------------------------

    @rule()
    def write_down_and_read_back(self) -> None:
        """At any stop of any operation; it goes on as if nothing had happened."""
        self.machine.write_down_and_read_back()
        domains = self.machine.domains
        for guest in self.guests:
            guest.d = domains[guest.d.domid]
        self.running = {domains[v.domain.domid].vcpus[v.vcpu_id]: op for v, op in self.running.items()}

    # --- death -----------------------------------------------------------------------------------------------

    @rule(who=st.integers(1, 2), entries=PORTION)
    def die_and_be_replaced(self, who: int, entries: int) -> None:
        guest = self.guests[who]
        self.kill(guest, entries)
        self.guests[who] = self.fresh() if guest.d.rules.address_size == 64 else self.fresh_of_32_bits()

    def kill(self, guest: Guest, entries: int) -> None:
        """K2-K5: what is left is what others still map."""
        for v in guest.d.vcpus:
            self.running.pop(v, None)
        portions = 0
        while not guest.mmu.relinquish(guest.d, Budget(entries)):
            self.machine.recount()
            portions += 1
            assert portions < 5000, "K3: a death that makes no progress"
        self.machine.recount()
        frames = guest.mmu.frames
        for base in guest.d.extents.bases:
            for mfn in range(base, base + 1024):
                if frames.owner[mfn] == guest.d.domid:
                    left = frames.flags[mfn] & (ALLOCATED | PINNED | PARTIAL)
                    assert not left, f"K2, Q5: {frames.describe(mfn)} outlives its owner"
        guest.mmu.release_extents(guest.d)


def request(guest: Guest, s: Portion, ptr: int, value: int, foreigndom: int) -> None:
    """One mmu_update request; raises as it ended."""
    guest.mmu.update_requests.perform(
        guest.d,
        guest.d,
        guest.d.domid if foreigndom in (DOMID_SELF, guest.d.domid) else foreigndom,
        ptr,
        value,
        s,
    )


def test_every_count_is_right_whatever_is_done_in_whatever_portions() -> None:
    """Short runs, which shrink well."""
    quick = settings(
        max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(RandomMemory, settings=quick)


@pytest.mark.parametrize("seed", range(3))
def test_every_count_stays_right_in_the_long_run(seed: int) -> None:
    run_long(seed, 800)


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(100, 104))
def test_every_count_stays_right_in_a_very_long_run(seed: int) -> None:
    run_long(seed, 20_000 if os.environ.get("XENOSCOPE_STRESS") else 300)


def run_long(seed: int, steps: int) -> None:
    """The same rules, drawn by a seed; a failure names the step."""
    rng = random.Random(seed)
    machine = RandomMemory()
    for step in range(steps):
        try:
            one_step(machine, rng)
            machine.machine.recount()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, step {step}: {error}") from error
    machine.teardown()


def one_step(m: RandomMemory, rng: random.Random) -> None:
    who, vcpu, frame = rng.randrange(3), rng.randrange(2), rng.randrange(NR_FRAMES)
    pick, level = rng.randrange(NR_FRAMES), rng.randint(1, 4)
    slot, flags = (
        rng.choice([0, 1, 2, 3, 300, 511]),
        rng.choice([RW, RW, RO, RO, RO, 0, RW | 1 << 3, RW | 1 << 7]),
    )
    picks = [
        (rng.choice([0, 1, 2, 511]), rng.randrange(NR_FRAMES), rng.choice([RW, RO, RO])) for _ in range(3)
    ]
    if rng.random() < 0.003:
        m.die_and_be_replaced(rng.randint(1, 2), rng.choice([1, 2, 700]))
        return
    if rng.random() < 0.02:
        m.write_down_and_read_back()
        return
    steps: list[Callable[[], None]] = [
        lambda: m.write_a_table(who, frame, level, picks[: rng.randint(0, 3)]),
        lambda: m.write_a_table(who, frame, level, picks[: rng.randint(0, 3)]),
        lambda: m.pin(who, vcpu, frame, level),
        lambda: m.pin(who, vcpu, frame, level),
        lambda: m.unpin(who, vcpu, frame),
        lambda: m.load_base(who, vcpu, frame, bool(pick & 1)),
        lambda: m.update(who, vcpu, frame, slot, pick, flags, rng.choice([0, 0, 0, 1, 2])),
        lambda: m.update(who, vcpu, frame, slot, pick, flags, 0),
        lambda: m.update(who, vcpu, frame, slot, pick, 0, 0),
        lambda: m.map_foreign(vcpu, frame, slot, who, pick, flags),
        lambda: m.exchange(who, vcpu, [frame, pick][: rng.randint(1, 2)]),
        lambda: m.give_back_and_take(who, vcpu, frame),
        lambda: m.set_gdt(who, vcpu, [frame, pick][: rng.randint(0, 2)]),
        lambda: m.copy_page(who, vcpu, frame, pick),
        lambda: m.go_on(pick, rng.choice([1, 1, 2, 700]), rng.randint(1, 4)),
    ]
    rng.choice(steps)()
