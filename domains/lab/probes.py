"""The probes of kernel/probes.S, tried: what each instruction does in each ring, and how often a monitor is entered for it."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise, product
from typing import Final

from domains.lab.image import Image, kernel_image
from domains.lab.systems.system import System
from domains.lab.trace import Observer, Step

OUTCOME: Final = struct.Struct("<4I")
MOST: Final = 64
"""Probes of a ring (probe.c)."""
EXCEPTIONS: Final = 32
"""Vectors below are the CPU's exceptions."""
BACK: Final = 0x30
"""By which a probe tells that it has come to its end."""
NUMBER: Final = "number_"
PROBE: Final = "probe_"
OVER: Final = "over"
WAYS_BACK: Final = ("software interrupt", "system call")


@dataclass
class Outcome:
    """One probe in one ring. `vector`: by which it came back; `value`, `second`: EAX and EDX there; `entries`: into the monitor,
    by cause; `switches`: how often another page table was put in force; its way back is not counted. `steps`: all of it.
    """

    vector: int
    error: int
    value: int
    second: int
    entries: Counter[str] = field(default_factory=Counter)
    switches: int = 0
    steps: list[Step] = field(default_factory=list)

    @property
    def trapped(self) -> bool:
        """Whether the CPU refused the instruction."""
        return self.vector < EXCEPTIONS


Trials = dict[tuple[str, int], Outcome]
"""By probe and ring."""


@cache
def probe_image() -> Image:
    """The kernel that tries them."""
    return kernel_image("probe")


def names(image: Image) -> list[str]:
    """Its probes, in the order in which they are tried."""
    found = [(at, name.removeprefix(NUMBER)) for name, at in image.symbols.items() if name.startswith(NUMBER)]
    return [name for _, name in sorted(found)]


def try_probes(system: System, rings: Sequence[int]) -> Trials:
    """Try all of them in these rings, as the guest knows them, on a system that was made for it; it is closed."""
    image = system.image
    observer = Observer(system.monitor, image.at("enter_ring"), image.at("trials_end"))
    system.observe(observer)
    system.run([f"try_in_ring_{ring}" for ring in rings])
    trials: Trials = {}
    for ring, (number, name) in product(rings, enumerate(names(image))):
        at = image.at("outcomes") + (ring * MOST + number) * OUTCOME.size
        trials[name, ring] = Outcome(*OUTCOME.unpack(system.read(at, OUTCOME.size)))
    for outcome, steps in zip(trials.values(), trials_of(observer.part.steps), strict=True):
        outcome.steps = steps
        counted = without_way_back(steps) if outcome.vector == BACK else steps
        outcome.entries = Counter(step.text for step in counted if step.ring < 0)
        tables = [step.cr3 for step in counted if step.ring >= 0]
        outcome.switches = sum(one != other for one, other in pairwise(tables))
    system.close()
    return trials


def trials_of(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """The steps of each probe, from its first instruction to where it is over."""
    found: list[Step] = []
    for step in steps:
        if found and step.at == OVER:
            yield found
            found = []
        elif found or step.at.startswith(PROBE):
            found.append(step)


def without_way_back(steps: list[Step]) -> list[Step]:
    """Up to the entry by which the probe told that it has come to its end, if that is one."""
    for at in reversed(range(len(steps))):
        if steps[at].ring < 0 and steps[at].text in WAYS_BACK:
            return steps[:at]
    return steps
