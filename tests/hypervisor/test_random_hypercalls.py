"""Two hostile PV domains of two vCPUs, a PVH and a 32-bit one make random hypercalls; after each that changed what is counted,
all in the machine is counted again.

    pytest tests/hypervisor/test_random_hypercalls.py --steps 1000000      (of each sequence)

Dom0 stands by: nothing may happen to it. What fails is cut down to a short sequence and printed; put it into
KEPT. The second form of the test lets the domains' *processes* be hostile too: they write whatever they like
into any frame of their own memory, page tables included, and only they may suffer.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from domains.cpu.x86.pv.posting import Posting
from hypervisor.domain.compat import switch_compat
from hypervisor.domain.context import PvContext, install_context
from hypervisor.domain.domain import Domain, Life, Vcpu
from hypervisor.domain.lifecycle import Limits, create_domain
from hypervisor.domain.posts import PostedOperations
from hypervisor.domain.run_state import Run
from hypervisor.hypercalls import grant_table_op
from hypervisor.machine.frame_types import PGC
from hypervisor.mm import physmap
from hypervisor.mm.allocator import Allocator
from hypervisor.mm.budget import Budget
from hypervisor.mm.domain_memory import DomainMemory
from hypervisor.mm.physmap import Physmap
from hypervisor.mm.update import Updates
from hypervisor.public.arch_x86.xen import VGCF_in_kernel, VGCF_online, vcpu_guest_context
from hypervisor.public.arch_x86.xen_x86_32 import xen_pfn_to_cr3
from hypervisor.public.compat import compat_vcpu_guest_context
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import PAGE_SHIFT
from hypervisor.wire.mailbox import GuestPaging
from hypervisor.wire.messages import ProtocolError, Request
from tests.hypervisor.hostile_guests import MAPPED, PAGES, Chooser, Step
from tests.hypervisor.hostile_narrow import NarrowChooser
from tests.hypervisor.hostile_translated import TranslatedChooser
from tests.hypervisor.posting_process import PostingProcess, Wanted
from tests.inprocess import BLOCKED, InProcess, hypervisor_in_process
from tests.recount import readings, recount
from tests.recount_events import recount_events
from tests.recount_grants import grant_references, recount_grants

SEEDS = range(1, 5)
DEFAULT_STEPS = 10_000
"""Of each sequence; there are eight, and six of seven steps are hypercalls: some 70,000 in all."""
MAX_PAGES = 64
DOMAINS, TRANSLATED, NARROW = 4, 2, 3
RO, RW = 5, 7
STOPPED = int(Request.STOPPED)

CHOOSERS: dict[int, type[Chooser]] = {TRANSLATED: TranslatedChooser, NARROW: NarrowChooser}
"""Who plays which domain, where it is not a 64-bit PV guest."""
KEPT: list[tuple[str, list[Step]]] = []
"""Sequences that once failed: (what went wrong, the steps)."""


class Arena:
    """Dom0, which only stands by, and four small domains, one translated, one of 32 bits; a dead one is replaced at once."""

    def __init__(self, machine: InProcess, *, honest: bool) -> None:
        self.machine = machine
        self.honest = honest
        self.dom0 = machine.build(privileged=True).domain
        self.domains = [self.create(who) for who in range(DOMAINS)]
        self.standing = self.picture()
        self.calls = 0
        self.processes: dict[Domain, PostingProcess] = {}
        """Of the domains that have posted."""
        self.counted: list[Any] = []
        """What the last recount had read: of ten hypercalls nine change nothing of it, and need no other."""

    def create(self, who: int) -> Domain:
        """Attacker number `who`."""
        if who == NARROW:
            return self.create_narrow()
        if who != TRANSLATED:
            return self.create_pv()
        return self.machine.build_hvm(pages=PAGES, max_pages=MAX_PAGES)

    def create_pv(self) -> Domain:
        """A domain of PAGES pages with one page table of each level, all of it as a toolstack would leave
        it.
        """
        hv = self.machine.hv
        domain = create_domain(hv, hv.free_domid(), max_pages=MAX_PAGES, limits=Limits(nr_vcpus=2))
        pages = [hv.mmu.allocator.alloc_page(domain.mem) for _ in range(PAGES)]
        words = self.machine.memory.frames
        for level in range(3):
            words[pages[level], 0] = pages[level + 1] << PAGE_SHIFT | RW
        for number in [*range(4), *MAPPED]:
            words[pages[3], number] = pages[number] << PAGE_SHIFT | (RW if number in MAPPED else RO)
        context = vcpu_guest_context(flags=int(VGCF_in_kernel | VGCF_online))
        context.ctrlreg = tuple(pages[0] << PAGE_SHIFT if i == 3 else 0 for i in range(8))
        return self.started(domain, context)

    def create_narrow(self) -> Domain:
        """The same of 32 bits: its tables are an L3, the first and the last L2, and an L1."""
        hv = self.machine.hv
        domain = create_domain(hv, hv.free_domid(), max_pages=MAX_PAGES, limits=Limits(nr_vcpus=2))
        switch_compat(hv, domain)
        pages = [hv.mmu.allocator.alloc_page(domain.mem) for _ in range(PAGES)]
        words = self.machine.memory.frames
        words[pages[0], 0], words[pages[0], 3] = pages[1] << PAGE_SHIFT | 1, pages[2] << PAGE_SHIFT | 1
        words[pages[1], 0] = pages[3] << PAGE_SHIFT | RW
        for number in [*range(4), *MAPPED]:
            words[pages[3], number] = pages[number] << PAGE_SHIFT | (RW if number in MAPPED else RO)
        context = compat_vcpu_guest_context(flags=int(VGCF_in_kernel | VGCF_online))
        context.ctrlreg = tuple(xen_pfn_to_cr3(pages[0]) if i == 3 else 0 for i in range(8))
        return self.started(domain, context)

    def started(self, domain: Domain, context: PvContext) -> Domain:
        """With these registers, and running."""
        hv = self.machine.hv
        install_context(hv, domain.vcpus[0], context, Budget(1 << 30))
        hv.run.domain_unpause(domain)
        domain.tool_pauses = 0
        return domain

    # --- performing a step -------------------------------------------------------------------------------

    def perform(self, step: Step) -> None:
        """Whatever the step does, afterwards the machine is consistent and Dom0 is as it was."""
        domain = self.domains[step[0]]
        getattr(self, f"do_{step[1]}")(domain, *step[2:])
        if domain.life is not Life.ALIVE or domain.is_shut_down:
            self.machine.destroy(domain)
            self.processes.pop(domain, None)
            self.domains[step[0]] = self.create(step[0])
        self.check()

    def do_call(
        self, domain: Domain, nr: int, args: tuple[int, ...], pokes: Iterable[tuple[int, bytes]]
    ) -> None:
        vcpu, hv = self.caller(domain), self.machine.hv
        if not self.told(domain):
            return
        for va, data in pokes:
            try:
                hv.mmu.guest.copy_to_guest(vcpu.mem, va, data)
            except XenError:
                continue
        result = self.machine.hypercall(vcpu, nr, *args)
        if result is BLOCKED and vcpu.run.state is Run.ANSWERED:
            self.give_turn_to(vcpu)
            result = self.machine.processes.results.pop(vcpu, BLOCKED)
        if result is BLOCKED and vcpu.run.state is Run.BLOCKED:
            hv.run.vcpu_unblock(vcpu)
        assert result is BLOCKED or isinstance(result, int)

    def caller(self, domain: Domain) -> Vcpu:
        """The vCPUs that have registers, in turn; one that is down, by itself or by its sibling, comes up again."""
        self.calls += 1
        for vcpu in domain.vcpus:
            if vcpu.initialised and not vcpu.up:
                self.machine.hv.run.vcpu_up(vcpu)
        ready = [vcpu for vcpu in domain.vcpus if vcpu.initialised and vcpu.run.state in (Run.NEW, Run.GUEST)]
        return ready[self.calls % len(ready)]

    def give_turn_to(self, vcpu: Vcpu) -> None:
        """Its siblings are stopped, as by the end of their turns."""
        run = self.machine.hv.run
        for sibling in vcpu.domain.vcpus:
            if sibling is not vcpu and sibling.run.state is Run.GUEST:
                run.slices.ask(sibling.unit, self.machine.hv.now())
                run.request(sibling, sibling.run.seq + 1, STOPPED)
                run.answer(sibling, 0)

    def do_entry(self, domain: Domain, ref: int, entry: bytes) -> None:
        address = (domain.grants.shared.frames[0] << PAGE_SHIFT) + 8 * ref
        self.machine.memory.write(address, entry)

    def do_scribble(self, domain: Domain, mfn: int, offset: int, data: bytes) -> None:
        if self.machine.hv.frames.owner[mfn] == domain.domid and not self.honest:
            self.machine.memory.write((mfn << PAGE_SHIFT) + offset, data[: 4096 - offset])

    def do_mode(self, domain: Domain, cr3: int, paging: int, code32: bool) -> None:
        domain.mailbox.set_guest_mode(0, cr3, cast(GuestPaging, paging), code32=code32)

    def do_post(self, domain: Domain, wanted: Iterable[Wanted]) -> None:
        vcpu = self.caller(domain)
        if vcpu.run.state is not Run.GUEST or domain.is_hvm:
            return  # no process of an HVM guest posts
        process = self.processes.setdefault(domain, PostingProcess(self.machine.hv, domain))
        for one in wanted:
            if process.vcpu is not vcpu and not self.told(domain):
                return
            process.act(vcpu, one)

    def do_tell(self, domain: Domain, posts: bytes) -> None:
        if not self.honest and self.told(domain):
            self.performed(
                domain, lambda: PostedOperations(self.machine.hv).perform(self.caller(domain), posts)
            )

    def told(self, domain: Domain) -> bool:
        """What its process has posted is performed; False: the domain has ended, for it was not certain at all."""
        process = self.processes.get(domain)
        return process is None or self.performed(domain, process.tell)

    def performed(self, domain: Domain, act: Callable[[], None]) -> bool:
        """An honest process is refused nothing; a hostile one ends with its domain if it is."""
        try:
            act()
        except ProtocolError:
            if self.honest:
                raise
            self.machine.destroy(domain)
            return False
        return True

    def do_die(self, domain: Domain) -> None:
        self.machine.destroy(domain)

    # --- checking ----------------------------------------------------------------------------------------

    def picture(self) -> Any:
        """What of Dom0 nobody else may change."""
        d = self.dom0
        return d.mem.tot_pages, d.events.active, d.life, d.shutdown_code, len(d.grants.maptrack), d.paused

    def check(self) -> None:
        hv = self.machine.hv
        domains = list(hv.domains.values())
        tables = [domain.grants for domain in domains]
        recount_grants(tables, honest=[])
        recount_events([domain.events for domain in domains])
        areas = [(v.info_frame, True) for d in domains for v in d.vcpus if v.info_frame is not None]
        held = [*grant_references(tables), *areas]
        now = [held, *readings(hv.mmu, honest=self.honest)]
        if now != self.counted:
            shown = self.honest and not any(process.pending for process in self.processes.values())
            recount(hv.mmu, held, honest=shown)
            self.counted = now
        assert hv.counters["hypervisor bugs"] == 0, hv.log.read().decode()[-3000:]
        assert self.picture() == self.standing, "H3: Dom0 was disturbed"


@contextmanager
def arena(*, honest: bool) -> Iterator[Arena]:
    with hypervisor_in_process(nr_cpus=4) as machine:
        yield Arena(machine, honest=honest)


def drive(chance: random.Random, steps: int, *, honest: bool) -> list[Step] | None:
    """Random steps; the sequence up to the first one after which something was wrong, if any."""
    done: list[Step] = []
    with arena(honest=honest) as house:
        for _ in range(steps):
            who = chance.randrange(DOMAINS)
            others = [*house.domains[:who], *house.domains[who + 1 :], house.dom0]
            kind = CHOOSERS.get(who, Chooser)
            step = kind(house.machine.hv, who, house.domains[who], others, chance, not honest).step()
            done.append(step)
            try:
                house.perform(step)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
                print(f"step {len(done)}: {type(error).__name__}: {error}")
                return done
        house.counted = []
        house.check()
    return None


def fails(steps: list[Step], *, honest: bool) -> bool:
    with arena(honest=honest) as house:
        try:
            for step in steps:
                house.perform(step)
        except Exception:  # noqa: BLE001 - as in drive
            return True
    return False


def shortened(steps: list[Step], *, honest: bool, seconds: float = 60) -> list[Step]:
    """Leave out what is not needed, larger pieces first, as long as there is time."""
    deadline = time.monotonic() + seconds
    size = len(steps) // 2
    while size and time.monotonic() < deadline:
        at = 0
        while at < len(steps) and time.monotonic() < deadline:
            without = steps[:at] + steps[at + size :]
            if without and fails(without, honest=honest):
                steps = without
            else:
                at += size
        size //= 2
    return steps


def hunt(seed: int, steps: int, *, honest: bool) -> str | None:
    """A report of what was found, ready to be kept; None: nothing."""
    failing = drive(random.Random(seed), steps, honest=honest)
    if failing is None:
        return None
    short = shortened(failing, honest=honest)
    lines = ",\n    ".join(map(repr, short))
    return (
        f"seed {seed}, honest={honest}: {len(failing)} steps, shortened to {len(short)}:\n[\n    {lines},\n]"
    )


@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("honest", [True, False], ids=["hostile guests", "hostile processes"])
def test_random_hypercalls_leave_everything_consistent(honest: bool, seed: int, steps: int | None) -> None:
    report = hunt(seed, steps or DEFAULT_STEPS, honest=honest)
    if report is not None:
        pytest.fail(report)


def test_what_once_failed_does_not_fail_again() -> None:
    for what, sequence in KEPT:
        assert not fails(sequence, honest=False), what


# --- negative controls --------------------------------------------------------------------------------------


def leak_a_reference(patch: pytest.MonkeyPatch) -> None:
    """Of the first frame that is released, and of no other: the domains are still to come to their end."""
    put = Allocator.put_page_alloc_ref
    leaked: list[int] = []

    def put_page_alloc_ref(self: Allocator, mfn: int) -> None:
        if leaked:
            put(self, mfn)
        else:
            self.frames.flags[mfn] &= ~int(PGC.ALLOCATED)
        leaked.append(mfn)

    patch.setattr(Allocator, "put_page_alloc_ref", put_page_alloc_ref)


def crash_in_a_hypercall(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(grant_table_op, "require_range", lambda va, size: [][0])


def hide_a_page_and_keep_it(patch: pytest.MonkeyPatch) -> None:
    """What a translated domain removes from its map stays referenced."""

    def remove_page(self: Physmap, d: DomainMemory, gfn: int) -> None:
        assert d.p2m is not None
        if (mfn := d.p2m.mfn(gfn)) is None:
            raise XenError(Errno.EINVAL, "nothing is there")
        self._write(d, gfn, d.p2m.leaves[gfn >> 9], 0)
        self.m2p.invalidate(mfn)

    patch.setattr(Physmap, "remove_page", remove_page)


def take_a_mapped_grant_for_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(physmap, "_require_no_grant", lambda d, gfn: None)


def post_whatever_names_a_frame(patch: pytest.MonkeyPatch) -> None:
    """The process does not look at what the frame is used as."""
    patch.setattr(Posting, "_is_certain", lambda self, entry, domid: True)


def take_no_reference_for_a_post(patch: pytest.MonkeyPatch) -> None:
    """The core believes what is posted."""

    def take_over_l1_entry(self: Updates, l1: int, slot: int, value: int, d: DomainMemory) -> None:
        self.tables[l1].words[slot] = d.rules.adjust_l1e(value)

    patch.setattr(Updates, "take_over_l1_entry", take_over_l1_entry)


@pytest.mark.parametrize(
    "mutation",
    [
        leak_a_reference,
        crash_in_a_hypercall,
        hide_a_page_and_keep_it,
        take_a_mapped_grant_for_memory,
        post_whatever_names_a_frame,
        take_no_reference_for_a_post,
    ],
)
def test_negative_control_a_broken_core_is_noticed(
    mutation: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation(monkeypatch)
    assert any(drive(random.Random(seed), 1500, honest=True) is not None for seed in range(3, 23))
