"""The registered table of traps: what Xen makes of an entry, what a bad one gets, and the frame that a handler finds."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from domains.cpu.x86.registers import RSP, U32
from domains.lab.compare import SYSTEMS
from domains.lab.costs import Costs
from domains.lab.image import kernel_image
from domains.lab.report import Cell, Chart, Claim, Experiment, Figure, Report, Table, Trace
from domains.lab.systems.system import Crashed
from domains.lab.systems.xen import Xen
from domains.lab.trace import Observer, Part
from hypervisor.domain.domain import Life
from hypervisor.public.errno import Errno
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE
from hypervisor.public.xen import Hypercall
from hypervisor.wire.messages import Effect

TRAP_INFO: Final = {32: struct.Struct("<BBHI"), 64: struct.Struct("<BBHIQ")}
"""vector, flags, cs, address; with four bytes of padding in 64 bits."""
TABLE: Final = 0x3FF000
"""A page that the kernel has not handed out: where the table lies."""
NOWHERE: Final = 0x70000000
"""Where the kernel has no page."""
XEN_CODE, RING_1_CODE, RING_1_DATA, USER_CODE = 0xE008, 0xE019, 0xE021, 0xE02B
NOT_CANONICAL: Final = 1 << 63
UNDEFINED, GATES = 6, 0x90
HANDLER: Final = "trap128"
CHECKED: Final = ("native", "esx", "xen")


class Asked(NamedTuple):
    """A registration, by the width of the guest's kernel, and what is to become of its selector, or the error."""

    title: str
    bits: int
    selector: int
    wanted: int | Errno
    address: int = 0x100000


ASKED: Final = (
    Asked("32 bits: a selector of ring 1", 32, RING_1_CODE, RING_1_CODE),
    Asked("32 bits: Xen's own code, of ring 0", 32, XEN_CODE, XEN_CODE | 1),
    Asked("32 bits: the null selector", 32, 0, 1),
    Asked("32 bits: a selector of ring 3", 32, USER_CODE, USER_CODE),
    Asked("64 bits: Xen's own code, of ring 0", 64, XEN_CODE, XEN_CODE | 3),
    Asked("64 bits: a selector of ring 1", 64, RING_1_CODE, RING_1_CODE | 3),
    Asked("64 bits: an address that is not canonical", 64, 0xE033, Errno.EINVAL, NOT_CANONICAL),
)


class Bad(NamedTuple):
    """A handler for #UD that Xen registers, and with which a trap goes wrong; `reason`: a part of what the domain ends with."""

    title: str
    selector: int
    where: str
    reason: str


BAD: Final = (
    Bad("Xen's own code segment, made one of ring 1", XEN_CODE, HANDLER, "segments 0xe009"),
    Bad("a data segment", RING_1_DATA, HANDLER, "segments 0xe021"),
    Bad("the null selector", 0, HANDLER, "no handler"),
)
LEVELS: Final = {0: "#GP", 1: "#GP", 3: "INT n"}
"""What comes of a program's INT n, by the DPL with which the kernel registered it."""
FRAMES: Final = {
    "null_call": ("trap128", False),
    "divide_error": ("trap0", False),
    "page_fault": ("trap14", True),
    "protection_fault": ("trap14", True),
}
"""By program: the kernel's entry, and whether there is an error code."""
WORDS: Final = ("error code", "EIP", "CS", "EFLAGS", "ESP", "SS")
SELECTORS: Final = {"CS": {0x1B, USER_CODE}, "SS": {0x23, 0xE033}}
"""Those of a program: bare.c's, and Xen's for every guest."""
NOTES: Final = (
    "EIP is told from the program's marked instruction on: the programs lie elsewhere in Xen's kernel.",
    "The selectors of a program have other numbers on Xen, where they are in a table that every guest has.",
)
Frame = dict[str, int]


def run(_costs: Costs) -> Report:
    """See EXPERIMENT."""
    registered = {one: found for bits in TRAP_INFO for one, found in register_all(bits).items()}
    ends = {one: end_of(one) for one in BAD}
    calls = call_gates()
    levels = by_level(calls)
    frames = by_program({system: frames_of(system) for system in CHECKED})
    report = Report(notes=list(NOTES), claims=claims(registered, ends, levels, frames))
    report.tables += [
        Table(
            "What is registered",
            ("asked for", "became"),
            [(one.title, [hex(one.selector), became(found)]) for one, found in registered.items()],
        ),
        Table(
            "What a trap gets by a bad one",
            ("the domain ends with",),
            [(one.title, [found]) for one, found in ends.items()],
        ),
        Table(
            "INT n in ring 3",
            ("comes as",),
            [(f"registered with DPL {dpl}", [found]) for dpl, found in levels.items()],
        ),
        *(as_table(program, by_system) for program, by_system in frames.items()),
    ]
    series = [
        (title, [Figure(int(found == text)) for found in levels.values()])
        for title, text in (("the handler is called", "INT n"), ("the kernel gets #GP", "#GP"))
    ]
    groups = [f"DPL {dpl}" for dpl in levels]
    report.charts.append(Chart("A program's INT n, by the registered DPL", "times", groups, series))
    report.traces.append(Trace("INT n by three gates, on Xen", calls.steps))
    return report


def became(found: int | Errno) -> str:
    """A selector, or an error."""
    return found.name if isinstance(found, Errno) else hex(found)


def put_table(system: Xen, entries: Sequence[tuple[int, int, int, int]]) -> None:
    """Write a table for set_trap_table into the kernel's memory: vector, flags, selector, address."""
    layout = TRAP_INFO[system.image.bits]
    packed = [
        layout.pack(*entry) if system.image.bits == 32 else layout.pack(*entry[:3], 0, entry[3])
        for entry in entries
    ]
    table = b"".join(packed) + bytes(layout.size)
    at = int(system.p2m[TABLE >> PAGE_SHIFT]) << PAGE_SHIFT
    system.xen.memory.write(at, table.ljust(PAGE_SIZE, b"\0"))


def register(system: Xen, *entries: tuple[int, int, int, int]) -> tuple[int, list[Any]]:
    """The real hypercall, by this guest: its result and effects, which are in force."""
    put_table(system, entries)
    result, effects = system.gate.answer(0, Hypercall.set_trap_table, (TABLE,))
    system.cpu.apply(effects)
    return result, effects


def register_all(bits: int) -> dict[Asked, int | Errno]:
    """What becomes of the registrations of a guest of this width."""
    system = Xen(kernel_image("xen64" if bits == 64 else "xen"))
    system.begin([])
    found: dict[Asked, int | Errno] = {}
    for asked in ASKED:
        if asked.bits == bits:
            result, effects = register(system, (UNDEFINED, 0, asked.selector, asked.address))
            found[asked] = Errno(-result) if result < 0 else registered_selector(effects)
    system.close()
    return found


def registered_selector(effects: list[Any]) -> int:
    """Of the one entry that the table has got."""
    (entries,) = [entries for kind, entries in effects if kind == Effect.TRAP_TABLE]
    return int(entries[0][2])


def run_with(programs: Sequence[str], *entries: tuple[int, int, int, str]) -> Part:
    """Run programs on Xen; at the first one's mark the kernel registers these, too, with a symbol as address. Crashed."""
    system = Xen()
    at = system.image.at
    observer = Observer(system.monitor, at(f"{programs[0]}_from"), at(f"{programs[-1]}_to"))

    def begins() -> None:
        register(
            system,
            *((vector, flags, selector, at(symbol)) for vector, flags, selector, symbol in entries),
        )

    observer.begins = begins
    system.observe(observer)
    try:
        system.run(programs)
    finally:
        others = [domain.life for domain in system.xen.hv.domains.values() if domain is not system.domain]
        assert set(others) == {Life.ALIVE}, "another domain has ended"
        system.close()
    return observer.part


def end_of(bad: Bad) -> str:
    """What the domain ends with when a #UD comes."""
    try:
        run_with(["undefined"], (UNDEFINED, 0, bad.selector, HANDLER))
    except Crashed as crashed:
        return str(crashed).splitlines()[0].split(": ", 1)[-1]
    return "nothing"


def call_gates() -> Part:
    """Programs call gates that were registered with each DPL."""
    entries = [(GATES + dpl, dpl, RING_1_CODE, HANDLER) for dpl in LEVELS]
    return run_with([f"gate_{dpl}" for dpl in LEVELS], *entries)


def by_level(calls: Part) -> dict[int, str]:
    """What came of each, by the DPL that was registered."""
    following = list(pairwise(calls.steps))
    return {
        dpl: next(after.text for step, after in following if step.at == f"gate_{dpl}_from") for dpl in LEVELS
    }


class FrameObserver(Observer):
    """Keeps what is on the stack where a program's trap reaches the kernel."""

    def __init__(self, system: Any) -> None:
        super().__init__(system.monitor, 0, 0)
        self._at = system.image.at
        self._read = system.v.paging.read
        self._marks = {self._at(f"{program}_from"): program for program in FRAMES}
        self._program = ""
        self.frames: dict[str, Frame] = {}

    def instruction(self, _uc: Any, address: int, _size: int, _data: Any) -> None:
        """See Observer."""
        self._program = self._marks.pop(address, self._program)  # a fault's instruction is executed twice
        if self._program and address == self._at(FRAMES[self._program][0]):
            words = WORDS if FRAMES[self._program][1] else WORDS[1:]
            stack = self._read(self.cpu.q[RSP] & U32, 4 * len(words))
            frame = dict(zip(words, struct.unpack(f"<{len(words)}I", stack), strict=True))
            frame["EIP"] -= self._at(f"{self._program}_from")
            self.frames[self._program] = frame
            self._program = ""


def frames_of(name: str) -> dict[str, Frame]:
    """By program: the words that the handler of its trap finds, by name; EIP from the program's mark on."""
    system = SYSTEMS[name][1]()
    observer = FrameObserver(system)
    system.observe(observer)
    system.run(list(FRAMES))
    system.close()
    return observer.frames


def by_program(by_system: dict[str, dict[str, Frame]]) -> dict[str, dict[str, Frame]]:
    """The same, by program and then by system."""
    return {program: {system: frames[program] for system, frames in by_system.items()} for program in FRAMES}


def as_table(program: str, by_system: dict[str, Frame]) -> Table:
    """A frame, word by word."""
    words = by_system["native"]
    rows: list[tuple[str, list[Cell]]] = [
        (word, [hex(by_system[system][word]) for system in CHECKED]) for word in words
    ]
    return Table(
        f"The frame of {program.replace('_', ' ')}", [SYSTEMS[system][0] for system in CHECKED], rows
    )


def same_frames(by_system: dict[str, Frame]) -> bool:
    """Whether a handler finds the same everywhere, but for the numbers of selectors."""
    native = by_system["native"]
    return all(
        frame.keys() == native.keys()
        and all(frame[word] in SELECTORS.get(word, {native[word]}) for word in frame)
        for frame in by_system.values()
    )


def claims(
    registered: dict[Asked, int | Errno],
    ends: dict[Bad, str],
    levels: dict[int, str],
    frames: dict[str, dict[str, Frame]],
) -> list[Claim]:
    """What must be seen."""
    return [
        Claim(
            "a selector has at least the RPL of the guest's kernel: ring 1, or 3 in 64 bits",
            all(found == one.wanted for one, found in registered.items() if isinstance(one.wanted, int)),
        ),
        Claim(
            "an address that is not canonical is refused",
            all(found == one.wanted for one, found in registered.items() if isinstance(one.wanted, Errno)),
        ),
        Claim(
            "a trap by a bad entry ends its own domain, and no other",
            all(one.reason in found for one, found in ends.items()),
        ),
        Claim(
            "a program may call a gate of DPL 3; of any other it is #GP for the kernel",
            levels == LEVELS,
        ),
        Claim(
            "the frame is the CPU's, word by word, but for the numbers of selectors",
            all(map(same_frames, frames.values())),
        ),
    ]


EXPERIMENT: Final = Experiment(
    "traps",
    "Xen checks a handler when it is registered, and calls it with the frame that the CPU would have pushed.",
    "Barham et al., SOSP 2003, 3.3.1",
    run,
)
