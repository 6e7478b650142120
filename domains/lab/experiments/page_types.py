"""What keeps direct paging safe: a frame is a page table, a descriptor table, or writable; never two of these at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from domains.lab.costs import Costs
from domains.lab.in_process import XenInProcess
from domains.lab.played_guest import PlayedGuest, Uses
from domains.lab.report import Cell, Chart, Claim, Experiment, Figure, Report, Table, Trace
from domains.lab.trace import Step
from hypervisor.machine.paging import PAGE_PRESENT, PAGE_RW, PAGE_USER, pte
from hypervisor.mm.layout import M2P_MFN, XEN_GDT_MFN
from hypervisor.public.errno import Errno
from hypervisor.public.types import PAGE_SIZE
from hypervisor.public.xen import (
    MMUEXT_CLEAR_PAGE,
    MMUEXT_NEW_BASEPTR,
    MMUEXT_PIN_L1_TABLE,
    MMUEXT_PIN_L4_TABLE,
    MMUEXT_UNPIN_TABLE,
)

READ_ONLY: Final = PAGE_PRESENT | PAGE_USER
WRITABLE: Final = READ_ONLY | PAGE_RW
ENTRIES: Final = 512
KERNEL_SLOT: Final = 511
"""Of an L4: where the guest's kernel lies."""
L1_TABLES: Final = 4
"""Of each address space that is switched to, all full."""
SWITCHES: Final = 6
REFUSALS: Final = (-Errno.EBUSY, -Errno.EINVAL, -Errno.EPERM)


class Use(NamedTuple):
    """A way to use a frame: `begin` and `end` make hypercalls, whose results they return."""

    name: str
    begin: Callable[[PlayedGuest, int], int]
    end: Callable[[PlayedGuest, int], int]


def window(guest: PlayedGuest) -> int:
    """The L1 entry through which frames are mapped."""
    return guest.entry_for(guest.scratch + PAGE_SIZE, 1)


def map_page(guest: PlayedGuest, mfn: int, bits: int = WRITABLE) -> int:
    """Map a frame."""
    return guest.mmu_update((window(guest), pte(mfn, bits)))


def unmap_page(guest: PlayedGuest, _mfn: int) -> int:
    """Map nothing there."""
    return guest.mmu_update((window(guest), 0))


def pinned(level: int) -> Use:
    """As a page table of this level."""
    return Use(
        f"L{level}",
        lambda guest, mfn: guest.extended(MMUEXT_PIN_L1_TABLE + level - 1, mfn),
        lambda guest, mfn: guest.extended(MMUEXT_UNPIN_TABLE, mfn),
    )


USES: Final = (
    *map(pinned, (1, 2, 3, 4)),
    Use("GDT/LDT", lambda guest, mfn: guest.set_gdt(mfn), lambda guest, _mfn: guest.set_gdt()),
    Use("writable", map_page, unmap_page),
)


class Attempt(NamedTuple):
    """A frame that is `used` was to be `wanted`: the result, what the frame table said before and after, and the result of the
    same when the first use had ended.
    """

    used: str
    wanted: str
    result: int
    before: Uses
    after: Uses
    later: int


class Switches(NamedTuple):
    """Entries that the validator looked at: when the tables were pinned, and in SWITCHES loads of CR3."""

    at_pinning: int
    at_switches: int


def run(_costs: Costs) -> Report:
    """See EXPERIMENT."""
    xen = XenInProcess()
    guest, other = PlayedGuest(xen), PlayedGuest(xen)
    attempts = [attempt(guest, used, wanted) for used in USES for wanted in USES if used is not wanted]
    foreign, story = strangers(guest, other), story_of_a_frame(guest)
    switches = {name: switch(pins=name == "pinned") for name in ("pinned", "unpinned")}
    xen.close()
    report = Report(claims=claims(attempts, foreign, switches), notes=list(NOTES))
    report.tables += [matrix(attempts), counts(story), refused(foreign), validation(switches)]
    report.charts.append(
        Chart(
            f"Entries looked at in {SWITCHES} loads of CR3",
            "entries",
            list(switches),
            [("entries", [Figure(one.at_switches) for one in switches.values()])],
        )
    )
    steps = [
        Step(
            "kernel",
            3,
            what,
            f"{_result(result)}; {uses.type}, {uses.type_count} of it, {uses.references} references",
            0,
        )
        for what, result, uses in story
    ]
    report.traces.append(Trace("One frame", steps))
    return report


NOTES: Final = (
    "The core is the one of every machine; the guest makes hypercalls and has no CPU here.",
    "A frame that is given to its owner has one reference; each mapping, use as a table and pin takes another.",
)


# --- what is run --------------------------------------------------------------------------------------


def attempt(guest: PlayedGuest, used: Use, wanted: Use) -> Attempt:
    """Use a new frame in one way, then try another, then end the first use and try again."""
    mfn = guest.spare()
    assert used.begin(guest, mfn) == 0
    before = guest.uses(mfn)
    result = wanted.begin(guest, mfn)
    after = guest.uses(mfn)
    assert used.end(guest, mfn) == 0
    assert (
        guest.extended(MMUEXT_CLEAR_PAGE, mfn) == 0
    )  # an L4 has had entries of Xen's, which no other table may have
    later = wanted.begin(guest, mfn)
    assert wanted.end(guest, mfn) == 0
    return Attempt(used.name, wanted.name, result, before, after, later)


def strangers(guest: PlayedGuest, other: PlayedGuest) -> dict[str, tuple[int, int]]:
    """Frames that are not the guest's: the result of mapping them read-only, and writable."""
    frames = {
        "another guest's page": other.spare(),
        "another guest's page table": int(other.vcpu.mem.cr3 or 0),
        "Xen's descriptor table": XEN_GDT_MFN,
        "Xen's M2P": M2P_MFN,
        "a frame that nobody has": guest.xen.hv.mmu.frames.top + 1,
    }
    return {name: (map_page(guest, mfn, READ_ONLY), map_page(guest, mfn)) for name, mfn in frames.items()}


Story = list[tuple[str, int, Uses]]


def story_of_a_frame(guest: PlayedGuest) -> Story:
    """What is done with one frame: the operation, its result, and the counts afterwards."""
    mfn, table = guest.spare(), pinned(1)
    operations: tuple[tuple[str, Callable[[], int]], ...] = (
        ("map it writable", lambda: map_page(guest, mfn)),
        ("pin it as an L1", lambda: table.begin(guest, mfn)),
        ("map it read-only instead", lambda: map_page(guest, mfn, READ_ONLY)),
        ("pin it as an L1", lambda: table.begin(guest, mfn)),
        ("map it writable", lambda: map_page(guest, mfn)),
        ("unpin it", lambda: table.end(guest, mfn)),
        ("map it writable", lambda: map_page(guest, mfn)),
        ("unmap it", lambda: unmap_page(guest, mfn)),
    )
    story = [("give it to the guest", 0, guest.uses(mfn))]
    for what, operation in operations:
        result = operation()
        story.append((what, result, guest.uses(mfn)))
    return story


def address_space(guest: PlayedGuest) -> int:
    """The L4 of a new one: the kernel's half as it is, and L1_TABLES full tables of read-only pages for the program."""
    l4, l3, l2, page = (guest.spare() for _ in range(4))
    guest.write(l4, 0, pte(l3, WRITABLE))
    guest.write(l4, KERNEL_SLOT, int(guest.xen.memory.frames[int(guest.vcpu.mem.cr3 or 0), KERNEL_SLOT]))
    guest.write(l3, 0, pte(l2, WRITABLE))
    for slot in range(L1_TABLES):
        l1 = guest.spare()
        guest.write(l2, slot, pte(l1, WRITABLE))
        for entry in range(ENTRIES):
            guest.write(l1, entry, pte(page, READ_ONLY))
    return l4


def switch(*, pins: bool) -> Switches:
    """Switch between two address spaces, SWITCHES times."""
    xen = XenInProcess()
    guest, types = PlayedGuest(xen), xen.hv.mmu.types
    spaces = [address_space(guest), address_space(guest)]
    began = types.entries_checked
    if pins:
        for l4 in spaces:
            assert guest.extended(MMUEXT_PIN_L4_TABLE, l4) == 0
    at_pinning = types.entries_checked - began
    for number in range(SWITCHES):
        assert guest.extended(MMUEXT_NEW_BASEPTR, spaces[number % 2]) == 0
    found = Switches(at_pinning, types.entries_checked - began - at_pinning)
    xen.close()
    return found


# --- what is shown ------------------------------------------------------------------------------------


def _result(result: int) -> str:
    return f"-{Errno(-result).name}" if result < 0 else "done"


def matrix(attempts: list[Attempt]) -> Table:
    """Each use against each other."""
    names = [use.name for use in USES]
    results = {(one.used, one.wanted): _result(one.result) for one in attempts}
    rows: list[tuple[str, list[Cell]]] = [
        (f"a frame in use as {used}", [results.get((used, wanted), "–") for wanted in names])
        for used in names
    ]
    return Table("May it be used as …", names, rows)


def counts(story: Story) -> Table:
    """A frame's life."""
    rows: list[tuple[str, list[Cell]]] = [
        (what, [_result(result), uses.type, Figure(uses.type_count), Figure(uses.references)])
        for what, result, uses in story
    ]
    return Table("One frame, as the frame table has it", ("result", "type", "type count", "references"), rows)


def refused(foreign: dict[str, tuple[int, int]]) -> Table:
    """What is not the guest's."""
    rows: list[tuple[str, list[Cell]]] = [
        (name, [_result(read_only), _result(writable)]) for name, (read_only, writable) in foreign.items()
    ]
    return Table("Mapping what is not the guest's", ("read-only", "writable"), rows)


def validation(switches: dict[str, Switches]) -> Table:
    """What pins save."""
    rows: list[tuple[str, list[Cell]]] = [
        (name, [Figure(one.at_pinning), Figure(one.at_switches), Figure(one.at_switches // SWITCHES)])
        for name, one in switches.items()
    ]
    return Table(
        f"Entries that the validator looked at: two address spaces, {L1_TABLES} full L1 tables each",
        ("when pinned", f"in {SWITCHES} loads of CR3", "in each"),
        rows,
    )


def claims(
    attempts: list[Attempt], foreign: dict[str, tuple[int, int]], switches: dict[str, Switches]
) -> list[Claim]:
    """What must be seen."""
    looked = switches["unpinned"].at_switches
    return [
        Claim(
            "a frame in one use is refused for every other", all(one.result in REFUSALS for one in attempts)
        ),
        Claim("a refusal leaves the counts as they were", all(one.before == one.after for one in attempts)),
        Claim("when the first use has ended, the other is allowed", all(one.later == 0 for one in attempts)),
        Claim(
            "nothing that is another's can be mapped",
            all(result in REFUSALS for results in foreign.values() for result in results),
        ),
        Claim("a load of CR3 with pinned tables validates nothing", switches["pinned"].at_switches == 0),
        Claim(
            "without pins it validates the whole address space each time",
            looked >= SWITCHES * L1_TABLES * ENTRIES,
        ),
    ]


EXPERIMENT: Final = Experiment(
    "page-types",
    "No frame is ever writable and a page table at once; what is pinned is validated once.",
    "Barham et al., SOSP 2003, 3.3.3",
    run,
)
