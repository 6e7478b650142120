"""Which pages a guest touches, in their order; and TLBs of other kinds than the emulated CPU's, through which that sequence goes.

The sequence is measured: before each instruction the emulated CPU's TLB is emptied, so that every page that it needs
is a miss, which `cpu_log` notes. What the TLBs below make of it is a replay, and no property of the emulated CPU.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

from domains.cpu.x86.emulator.unicorn_library import HOOK_CODE
from domains.lab.cpu_log import What, cpu_log
from domains.lab.systems.ring0 import Ring0
from domains.lab.systems.unported import CODE_HOOK
from hypervisor.public.types import PAGE_SHIFT

ENTRIES: Final = 64
"""Of a TLB: as a Pentium 4's for data."""


class Happening(Enum):
    """What happens."""

    TOUCH = "a page is touched"
    SWITCH = "CR3 is loaded"
    DROP = "INVLPG"


class Event(NamedTuple):
    """`page`: its number; `space`: the CR3 in force."""

    kind: Happening
    page: int
    space: int


def page_sequence(system: Ring0, programs: Sequence[str]) -> list[Event]:
    """Run the programs and tell what is touched between the marks of the first. `system` was made after `cpu_log`."""
    recorder = _Recorder(system, programs[0])
    system.run(programs)
    return recorder.events


class _Recorder:
    def __init__(self, system: Ring0, program: str) -> None:
        self.events: list[Event] = []
        self._library, self._paging = system.cpu.library, system.v.paging
        self._first, self._last = (system.image.at(f"{program}_{end}") for end in ("from", "to"))
        self._active = False
        self._log = cpu_log()
        self._hook = CODE_HOOK(self._instruction)
        self._library.add_hook(HOOK_CODE, self._hook)

    def _instruction(self, _uc: Any, address: int, _size: int, _data: Any) -> None:
        if self._active:
            self._take()
            self._active = address != self._last
        else:
            self._active = address == self._first
        if self._active:
            self._space = self._paging.control(3)
            self.events.append(Event(Happening.TOUCH, address >> PAGE_SHIFT, self._space))
            self._library.tlb_flush()
            self._log.start()

    def _take(self) -> None:
        """What the instruction before did."""
        for what, address in self._log.stop():
            if what == What.FILL:
                self._add(Event(Happening.TOUCH, address >> PAGE_SHIFT, self._space))
            elif what == What.LOAD_CR3:
                self._add(Event(Happening.SWITCH, 0, address))
            elif what == What.FLUSH_PAGE:
                self._add(Event(Happening.DROP, address >> PAGE_SHIFT, self._space))

    def _add(self, event: Event) -> None:
        if self.events[-1] != event:  # a store is a miss twice: before its page's entry is dirty, and after
            self.events.append(event)


class Tlb:
    """ENTRIES translations; the least recently used goes. `tagged`: each is of one address space, a load of CR3 drops none."""

    def __init__(self, *, tagged: bool) -> None:
        self._tagged = tagged
        self._kept: OrderedDict[tuple[int, int], None] = OrderedDict()
        self.counts: Counter[str] = Counter()

    def replay(self, events: Sequence[Event]) -> Counter[str]:
        """ "misses" and "flushes"."""
        does: dict[Happening, Callable[[int, int], None]] = {
            Happening.TOUCH: self._touch,
            Happening.SWITCH: self._switch,
            Happening.DROP: self._drop,
        }
        for kind, page, space in events:
            does[kind](page, space if self._tagged else 0)
        return self.counts

    def _touch(self, page: int, space: int) -> None:
        if (space, page) in self._kept:
            self._kept.move_to_end((space, page))
            return
        self.counts["misses"] += 1
        if len(self._kept) == ENTRIES:
            self._kept.popitem(last=False)
        self._kept[space, page] = None

    def _switch(self, _page: int, _space: int) -> None:
        if not self._tagged:
            self.counts["flushes"] += 1
            self._kept.clear()

    def _drop(self, page: int, space: int) -> None:
        self._kept.pop((space, page), None)
