"""What is seen of a run: every instruction of the guest, and every exit, in their order; and the counts of a part of it.

An `Observer` is attached to one system's CPU. It is called before each guest instruction, by a hook that does not change what the
guest does or sees, and at each exit, for `exits` is its own. A part of the run is marked by two addresses of the guest's program;
what lies between is recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from domains.cpu.x86.emulator.cpu_state import HF_CPL, HFLAGS, CpuState

NOT_YET_TOLD: Final = frozenset({"page fault"})
"""Causes that the engines count beside the true one, which follows."""
BETWEEN: Final = frozenset({"interrupt", "interrupt held back", "slice over"})
"""Causes that come between two instructions. Others stop one that has changed nothing yet: a change is the monitor's."""
NO_ENTRY: Final = frozenset({"INT n", "upcall"})
"""What Xen's engine counts though it is no entry into the hypervisor. INT n, of a vector that the guest has registered for its
programs: the Xen of 2003 has the guest's gate in the IDT, the *fast handler*, and the CPU goes from ring 3 to ring 1 by itself.
(The CPU here is in long mode, where no gate leads to 32-bit code, as under today's Xen; the engine does what the gate did.)
An upcall is delivered on the way out of an entry that has its own cause.
"""


CPU: Final = "CPU"
"""Who acts when nobody but the CPU does."""


class Exits(Counter[str]):
    """Exits by cause; `told` is called with the cause of each."""

    def __init__(self, told: Callable[[str], None]) -> None:
        super().__init__()
        self._told = told

    def __setitem__(self, cause: str, count: int) -> None:
        super().__setitem__(cause, count)
        self._told(cause)


class Entry(NamedTuple):
    """One entry of a table on an address's way to memory. `where`: whose table, its level, the slot; `value`: in words."""

    where: str
    value: str


class Change(NamedTuple):
    """An entry that is another now; "": it was not on the way, or is not any more."""

    where: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.where}: {self.old or '–'} → {self.new or '–'}"


@dataclass(frozen=True)
class Step:
    """One line of a trace. `who`: "program", "kernel", the monitor's name, or who else acts; `ring`: the CPU's true one, -1
    outside the guest; `at`: where, by symbol; `text`: the instruction, the exit's cause, or what is done; `cr3`: what the CPU's
    names. `changes`: what this step changed in the tables that are watched.
    """

    who: str
    ring: int
    at: str
    text: str
    cr3: int
    changes: tuple[Change, ...] = ()
    is_exit: bool = False
    """Whether it is an entry into the monitor. What the CPU does by itself, a device or another domain, is none."""


@dataclass
class Part:
    """What happened between two marks: `instructions` by ring, `exits` by cause, `names`: the same, told more closely;
    `direct`: what NO_ENTRY names; `beside`:
    what others than the guest's monitor did, by who and what, and `moved`: how many bytes by that; each step; and `tables`,
    those that are watched, as they were at the first mark.
    """

    instructions: Counter[int] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)
    direct: Counter[str] = field(default_factory=Counter)
    beside: Counter[tuple[str, str]] = field(default_factory=Counter)
    moved: Counter[tuple[str, str]] = field(default_factory=Counter)
    steps: list[Step] = field(default_factory=list)
    tables: list[Entry] = field(default_factory=list)

    @property
    def nr_exits(self) -> int:
        """All of them."""
        return self.exits.total()


class Observer:
    """See above. `watch` tells of the tables, whenever a step is recorded."""

    def __init__(self, monitor: str, first: int, last: int) -> None:
        """`monitor`: who acts at an exit. The part begins when the guest is about to execute what is at `first`, and ends at
        `last`.
        """
        self.part = Part()
        self._monitor = monitor
        self._first, self._last = first, last
        self._active = False
        self._previous = 0
        self._seen: dict[str, str] = {}
        self.cpu: CpuState
        self.describe: Callable[[int], tuple[str, str]] = lambda address: (hex(address), "")
        self.watch: Callable[[], list[Entry]] = list
        self.cr3: Callable[[], int] = lambda: 0
        self.named: Callable[[str], str] = lambda cause: cause
        """What an exit of this cause is called when it is told more closely: which hypercall."""
        self.begins: Callable[[], None] = lambda: None
        self.ends: Callable[[], None] = lambda: None
        """Called at the part's two ends: for what else is to be looked at there."""
        self.most_steps: int | None = None
        """So many are recorded at most; counts are of all."""
        self.limit: int | None = None
        """How many instructions the guest may execute; then `give_up` is called, once."""
        self.give_up: Callable[[], None] = lambda: None

    def instruction(self, _uc: Any, address: int, _size: int, _data: Any) -> None:
        """The guest is about to execute what is at `address`."""
        if self.limit is not None:
            self._count()
        if not self._active:
            if address != self._first:
                return
            self._begin()
        elif address == self._last:
            self._look()
            self._active = False
            self.ends()
            return
        repeated, self._previous = address == self._previous, address
        if repeated:  # REP: an instruction, however often
            return
        self._look()
        ring = self.cpu.d[HFLAGS] & HF_CPL
        self.part.instructions[ring] += 1
        if self.most_steps is not None and len(self.part.steps) >= self.most_steps:
            return
        at, text = self.describe(address)
        self._add("program" if ring == 3 else "kernel", ring, at, text)

    def _count(self) -> None:
        assert self.limit is not None
        self.limit -= 1
        if self.limit == 0:
            self.give_up()

    def exit(self, cause: str) -> None:
        """There was an exit of this cause."""
        if self._active and (cause in NOT_YET_TOLD or cause in BETWEEN):
            self._look()
        if cause in NOT_YET_TOLD:
            return
        self._previous = 0
        if not self._active:
            return
        if cause in NO_ENTRY:
            self.part.direct[cause] += 1
            self._add(CPU, -1, "", cause)
        else:
            self.part.exits[cause] += 1
            name = self.named(cause)
            self.part.names[name] += 1
            self._add(self._monitor, -1, "", name, is_exit=True)
        self._look()

    def beside(self, who: str, what: str, size: int = 0) -> None:
        """Somebody else than the guest and its monitor has done something, for the guest; `size`: bytes that were moved by it."""
        if self._active:
            self.part.beside[who, what] += 1
            self.part.moved[who, what] += size
            self._add(who, -1, "", what)

    def _add(self, who: str, ring: int, at: str, text: str, *, is_exit: bool = False) -> None:
        self.part.steps.append(Step(who, ring, at, text, self.cr3(), is_exit=is_exit))

    def _begin(self) -> None:
        self._active, self._previous = True, 0
        self._seen = dict(self.watch())
        self.part.tables = self.part.tables or [Entry(*one) for one in self._seen.items()]
        self.begins()

    def _look(self) -> None:
        """What the tables are now is the last step's doing."""
        if self.watch is list:  # nobody looks at any
            return
        now, old = dict(self.watch()), self._seen
        if now == old or not self.part.steps:
            return
        self._seen = now
        changed = [where for where in {**old, **now} if old.get(where) != now.get(where)]
        changes = tuple(Change(where, old.get(where, ""), now.get(where, "")) for where in changed)
        self.part.steps[-1] = replace(self.part.steps[-1], changes=changes)
