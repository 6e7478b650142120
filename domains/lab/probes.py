"""The probes of kernel/probes.S, tried: what each instruction does in each ring, and how often a monitor is entered for it."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
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


@dataclass
class Outcome:
    """One probe in one ring. `vector`: by which it came back; `value`, `second`: EAX and EDX there; `entries`: into the monitor,
    by cause.
    """

    vector: int
    error: int
    value: int
    second: int
    entries: Counter[str] = field(default_factory=Counter)

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


def names() -> list[str]:
    """The probes, in the order in which they are tried."""
    symbols = probe_image().symbols
    found = [(at, name.removeprefix(NUMBER)) for name, at in symbols.items() if name.startswith(NUMBER)]
    return [name for _, name in sorted(found)]


def try_probes(system: System, rings: Sequence[int]) -> Trials:
    """Try all of them in these rings, as the guest knows them, on a system that was made for it; it is closed."""
    image = probe_image()
    observer = Observer(system.monitor, image.at("enter_ring"), image.at("trials_end"))
    system.observe(observer)
    system.run([f"try_in_ring_{ring}" for ring in rings])
    trials: Trials = {}
    for ring, (number, name) in product(rings, enumerate(names())):
        at = image.at("outcomes") + (ring * MOST + number) * OUTCOME.size
        trials[name, ring] = Outcome(*OUTCOME.unpack(system.read(at, OUTCOME.size)))
    for outcome, entries in zip(trials.values(), entries_of(observer.part.steps), strict=True):
        if outcome.vector == BACK:
            entries["software interrupt"] -= 1  # the probe's last instruction
        outcome.entries = +entries
    system.close()
    return trials


def entries_of(steps: Sequence[Step]) -> Iterator[Counter[str]]:
    """The entries from a probe's first instruction to where it is over, for each probe in turn."""
    found: Counter[str] | None = None
    for step in steps:
        if found is None:
            found = Counter() if step.at.startswith(PROBE) else None
        elif step.at == OVER:
            yield found
            found = None
        elif step.ring < 0:
            found[step.text] += 1
