"""From counts to cycles: each thing that was counted in a run, times what costs.toml says that it costs. Nothing else.

The monitor in ring 1 is costed as VMware's, which translates the kernel's code: privileged and sensitive instructions are calls
of the translator, while faults, INT n and interrupts trap. What Xen and the monitors execute themselves is in the costs of
entering them.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from domains.lab.compare import Measured
from domains.lab.costs import Costs
from domains.lab.report import Figure, Kind
from domains.lab.trace import Part

ENTRIES: Final = {"trap128": "system_call", "trap14": "page_fault", "trap0": "divide_error"}
"""What brings the CPU to the kernel's entries."""
DELIVERED: Final = {
    "native": {"system_call", "page_fault", "divide_error"},
    "nested": {"system_call", "page_fault", "divide_error"},
    "vtx": {"system_call", "divide_error"},
    "xen": {"system_call"},
}
"""Which of those the CPU does by itself; elsewhere they are exits."""
OWN_INSTRUCTIONS: Final = {
    "native": {"port", "cr3_load", "invlpg"},
    "nested": {"cr3_load", "invlpg"},
}
"""Which instructions that cost more than others are no exits."""
BY_MONITOR: Final = ("trap ", "call-out ")


class Item(NamedTuple):
    """`often` times `each` cycles, by the name of a cost."""

    cost: str
    often: int
    each: float


def items(measured: Measured, costs: Costs) -> list[Item]:
    """What a run was made of. LabError: the costs lack one of it."""
    part, system = measured.part, measured.system
    counts: Counter[str] = Counter({"instruction": sum(part.instructions.values())})
    counts.update(_delivered(part, DELIVERED.get(system, set())))
    counts.update(_expensive(part, OWN_INSTRUCTIONS.get(system, set())))
    for cause, count in part.exits.items():
        for cost in costs_of_exit(system, cause):
            counts[cost] += count
    return [Item(cost, count, costs.cycles(cost)) for cost, count in counts.items() if count]


def cycles(measured: Measured, costs: Costs) -> float:
    """All of it."""
    return sum(item.often * item.each for item in items(measured, costs))


def modelled_us(measured: Measured, costs: Costs, times: int = 1) -> Figure:
    """In microseconds, for each of so many times that the run did it."""
    return Figure(costs.microseconds(cycles(measured, costs) / times), Kind.MODELLED, "µs")


def costs_of_exit(system: str, cause: str) -> tuple[str, ...]:
    """What one exit of this cause costs there."""
    if system in ("nested", "vtx"):
        return "hardware_exit", "hardware_work"
    if system == "xen":
        return ("hypercall",) if cause == "hypercall" else ("xen_fault",)
    if cause == "traced store":
        return ("traced_store",)
    if cause == "world switch":
        return ("world_switch",)
    return ("call_out",) if cause.startswith(BY_MONITOR) else ("trap",)


def _delivered(part: Part, kinds: set[str]) -> Counter[str]:
    entered = Counter(ENTRIES[step.at] for step in part.steps if step.at in ENTRIES)
    return Counter({kind: count for kind, count in entered.items() if kind in kinds})


def _expensive(part: Part, kinds: set[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for step in part.steps:
        kind = _kind_of(step.text) if step.ring >= 0 else ""
        if kind in kinds:
            counts[kind] += 1
    return counts


def _kind_of(instruction: str) -> str:
    name = instruction.split()[0] if instruction else ""
    if name.startswith(("in", "out")) and "%dx" in instruction:
        return "port"
    if name.startswith("invlpg"):
        return "invlpg"
    return "cr3_load" if instruction.endswith("%cr3") else ""
