"""costs.toml: what things cost on named machines, each with its source. Modelled figures are made of it, and of nothing else."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from domains.lab.image import LabError

DEFAULT_FILE: Final = Path(__file__).with_name("costs.toml")
DEFAULT_MACHINE: Final = "p4-2003"
MARKS: Final = ("read", "quoted", "recalled", "assumed")


@dataclass(frozen=True)
class Cost:
    """In cycles; `mark`: one of MARKS."""

    cycles: float
    mark: str
    source: str


@dataclass(frozen=True)
class Costs:
    """Those of one machine."""

    machine: str
    title: str
    ghz: float
    costs: dict[str, Cost]

    def cycles(self, what: str) -> float:
        """LabError: this machine has no such cost."""
        if what not in self.costs:
            raise LabError(f"costs of {self.machine}: there is no {what}")
        return self.costs[what].cycles

    def microseconds(self, cycles: float) -> float:
        """On this machine."""
        return cycles / (self.ghz * 1000)


def load_costs(file: Path = DEFAULT_FILE, machine: str = DEFAULT_MACHINE) -> Costs:
    """LabError: the file cannot be read, has no such machine, or says something that is not a cost."""
    try:
        data = tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LabError(f"{file}: {error}") from None
    machines = data.get("machines")
    if not isinstance(machines, dict) or machine not in machines:
        known = ", ".join(machines) if isinstance(machines, dict) else "none"
        raise LabError(f"{file} has no machine {machine!r}; it has {known}")
    entry = machines[machine]
    if (
        not isinstance(entry, dict)
        or not _is_number(entry.get("ghz"))
        or not isinstance(entry.get("costs"), dict)
    ):
        raise LabError(f"{file}: {machine} needs ghz, a number above 0, and costs")
    costs = {name: _cost(file, machine, name, one) for name, one in entry["costs"].items()}
    return Costs(machine, str(entry.get("title", machine)), float(entry["ghz"]), costs)


def _cost(file: Path, machine: str, name: str, entry: Any) -> Cost:
    where = f"{file}: {machine}.{name}"
    if not isinstance(entry, dict) or not _is_number(entry.get("cycles")):
        raise LabError(f"{where} needs cycles, a number above 0")
    if entry.get("mark") not in MARKS:
        raise LabError(f"{where} needs a mark, one of {', '.join(MARKS)}")
    if not isinstance(entry.get("source"), str):
        raise LabError(f"{where} needs a source")
    return Cost(float(entry["cycles"]), entry["mark"], entry["source"])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
