"""`xenctl lab all`: every experiment, as many at once as there are CPUs: a line each, their data, their pages and an index."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import NamedTuple

from rich.console import Console

from domains.lab.catalogue import NAMES, experiment
from domains.lab.command import Outcome, check
from domains.lab.costs import DEFAULT_FILE, DEFAULT_MACHINE, load_costs
from domains.lab.output.data import Data, as_data
from domains.lab.output.files import write_file
from domains.lab.output.terminal import not_run, summary
from domains.lab.parallel import Failed, each_in_a_process
from domains.lab.report import Claim
from domains.lab.wanted import Wanted


class Finding(NamedTuple):
    """What is kept of one run; `page`: with `html`."""

    claims: list[Claim]
    data: Data
    page: bytes

    @property
    def holds(self) -> bool:
        """Whether all claims do."""
        return all(claim.holds for claim in self.claims)


Found = dict[str, Finding | Failed]


def run_all(console: Console, wanted: Wanted) -> Outcome:
    """Run each. One that fails, or whose process dies, is told of by its name, and the others go on. LabError: something wanted
    cannot be; nothing was run then.
    """
    load_costs(wanted.costs or DEFAULT_FILE, wanted.cpu or DEFAULT_MACHINE)
    check(wanted)
    load_once()
    found: Found = {}
    told = 0
    for number, result in each_in_a_process([partial(find, name, wanted) for name in NAMES]):
        found[NAMES[number]] = result
        if isinstance(result, Finding) and wanted.html is not None:
            write_file(wanted.html / f"{NAMES[number]}.html", result.page)
        while not wanted.json and told < len(NAMES) and NAMES[told] in found:
            tell(console, NAMES[told], found[NAMES[told]])
            told += 1
    if wanted.html is not None:
        from domains.lab.output.page import index

        rows = [(name, about_one(found[name])) for name in NAMES]
        write_file(wanted.html / "index.html", index(rows))
    holds = all(isinstance(one, Finding) and one.holds for one in found.values())
    return Outcome(holds, {"holds": holds, "experiments": [data_of(name, found[name]) for name in NAMES]})


def load_once() -> None:
    """The engines, for all processes that are forked from this one."""
    import_module("domains.lab.compare")


def find(name: str, wanted: Wanted) -> Finding:
    """One run, in its own process."""
    chosen = experiment(name)
    costs = load_costs(wanted.costs or DEFAULT_FILE, wanted.cpu or chosen.cpu)
    report = chosen.run(costs)
    html = b""
    if wanted.html is not None:
        from domains.lab.output.page import page

        html = page(chosen, report, costs, has_index=True)
    data = as_data(chosen, report, costs) if wanted.json else {}
    return Finding(report.claims, data, html)


def tell(console: Console, name: str, result: Finding | Failed) -> None:
    """One line."""
    if isinstance(result, Failed):
        console.print(not_run(name, result.reason))
    else:
        console.print(summary(name, result.claims))


def about_one(result: Finding | Failed) -> list[Claim] | str:
    """Its claims, or why there are none."""
    return result.reason if isinstance(result, Failed) else result.claims


def data_of(name: str, result: Finding | Failed) -> Data:
    """As of a single run; or `experiment`, `holds` and `error`, why there was none."""
    if isinstance(result, Failed):
        return {"experiment": name, "holds": False, "error": result.reason}
    return result.data
