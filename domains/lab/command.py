"""What `xenctl lab` does: list the experiments, or run one and show it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from domains.lab.catalogue import NAMES, experiment
from domains.lab.costs import DEFAULT_FILE, load_costs
from domains.lab.output.terminal import show, steps_of


def list_experiments(console: Console) -> None:
    """One line each."""
    for name in NAMES:
        console.print(f"{name:<24}{experiment(name).claim}", highlight=False)


def run_experiment(console: Console, name: str, *, trace: bool, costs: Path | None, cpu: str) -> bool:
    """Run and show it; whether all that it claims holds. `cpu`: a machine of the costs' file; "": the usual one. LabError."""
    chosen = experiment(name)
    report = chosen.run(load_costs(costs or DEFAULT_FILE, cpu or chosen.cpu))
    show(console, chosen, report)
    if trace:
        for one in report.traces:
            console.print(steps_of(one))
    return report.holds
