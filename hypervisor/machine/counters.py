"""How often what happened: one store for the core. Debug key 'p' prints it, and XEN_SYSCTL_perfc_op reads it.

Counters of the machine are those of MACHINE_COUNTERS. Those of a domain (what it was refused, say) go with it, and are of
MAX_KINDS kinds at most: no guest makes the store grow.

Source: Xen common/perfc.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

NR_HYPERCALLS: Final = 64
INPUTS: Final = "inputs while guests ran"
"""What came from outside into a machine that repeats itself, while its time passed: with any, the run is no repetition."""
MACHINE_COUNTERS: Final = ("domain crashes", "hypervisor bugs", "protocol errors", "slices overrun", INPUTS)
"""What is counted for the machine as a whole."""
MAX_KINDS: Final = 512
OTHER_KINDS: Final = "of other kinds"


class Counters:
    """`hypercalls[nr]` counts the hypercalls of all domains; the others are counted by name."""

    def __init__(self) -> None:
        self.hypercalls = [0] * NR_HYPERCALLS
        self._machine = dict.fromkeys(MACHINE_COUNTERS, 0)
        self._domains: dict[int, dict[str, int]] = {}

    def add(self, name: str, domid: int | None = None, count: int = 1) -> int:
        """Count `count` more of `name`, of the machine or of one domain; how many that makes. 0: it has too many kinds already.

        KeyError: the machine has no such counter.
        """
        if domid is None:
            self._machine[name] += count
            return self._machine[name]
        counts = self._domains.setdefault(domid, {})
        if name not in counts and len(counts) >= MAX_KINDS:
            counts[OTHER_KINDS] = counts.get(OTHER_KINDS, 0) + count
            return 0
        counts[name] = counts.get(name, 0) + count
        return counts[name]

    def __getitem__(self, name: str) -> int:
        """How often the machine counted `name`."""
        return self._machine[name]

    def of_domain(self, domid: int) -> dict[str, int]:
        """A copy of one domain's counters."""
        return dict(self._domains.get(domid, {}))

    def forget(self, domid: int) -> None:
        """The domain is gone."""
        self._domains.pop(domid, None)

    def by_name(self) -> Iterator[tuple[str, int]]:
        """The machine's, then each domain's as "d1: name"; but for `hypercalls`."""
        yield from self._machine.items()
        for domid, counts in sorted(self._domains.items()):
            for name, count in sorted(counts.items()):
                yield f"d{domid}: {name}", count

    def reset(self) -> None:
        """Begin anew with 0 (XEN_SYSCTL_PERFCOP_reset)."""
        self.hypercalls[:] = [0] * NR_HYPERCALLS
        for counts in (self._machine, *self._domains.values()):
            counts.update(dict.fromkeys(counts, 0))
