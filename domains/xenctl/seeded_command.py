"""`xenctl run --seed`: one guest, or a topology, on a machine that repeats itself, and what is said of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from domains.control.description import DomainConfig
from domains.control.protocol import ControlError, Exit
from domains.xenctl.guest_run import CRASHES, Wanted, own_code
from domains.xenctl.hearing import first_of
from domains.xenctl.junit import MAX_TEXT, Report
from domains.xenctl.output import print_json, print_lines, printable, write_bytes
from domains.xenctl.seeded_run import STILL_THERE, Outcome, SeededRun
from hypervisor.machine.config import MACHINE_OVERHEAD

WELL: Final = ("poweroff", STILL_THERE)
"""How a domain may end, or stand when the time of the run is over."""
TOPOLOGIES: Final = (".yaml", ".yml")
"""How the name of a topology's file ends."""


class Consoles:
    """What all domains have said. One domain's is shown as it is; of several, each line with its domain's name."""

    def __init__(self, names: Sequence[str], *, shows: bool) -> None:
        self.said = {name: bytearray() for name in names}
        self._shows = shows
        self._lines = dict.fromkeys(names, b"")

    def hear(self, name: str, data: bytes) -> None:
        """A domain says something."""
        self.said[name] += data
        if self._shows and len(self.said) == 1:
            write_bytes(data)
        elif self._shows:
            *lines, self._lines[name] = (self._lines[name] + data).split(b"\n")
            for line in lines:
                print_lines(f"{name}: {line.decode('utf-8', 'replace')}")

    def show_rest(self) -> None:
        """Lines that have no end yet."""
        for name, line in self._lines.items():
            if line:
                print_lines(f"{name}: {line.decode('utf-8', 'replace')}")


def run_seeded(
    configs: Sequence[DomainConfig],
    seed: int,
    seconds: float,
    wanted: Wanted,
    report: Report,
    *,
    json: bool,
    exit_code: bool = False,
) -> int:
    """Run these domains together, and report; the exit code. `seconds`: of the machine's time; the deadline is of the host's.
    `exit_code`: it is the one guest's own, if it has told one. Raises ControlError unless they ended as wanted.
    """
    if wanted.exit_on:
        raise ControlError(
            Exit.USAGE, "--exit-on is for a run without --seed, which ends by itself or by --for"
        )
    started = time.monotonic()
    consoles = Consoles([config.name for config in configs], shows=not json)
    run = SeededRun(configs, seed, seconds, wanted.deadline, consoles.hear)
    needed = sum(config.memory + config.shadow_mib + 1 for config in configs) + MACHINE_OVERHEAD
    try:
        outcome = run.run(needed)
        error = judged(outcome, consoles, wanted)
    except ControlError as failure:
        outcome, error = run.outcome, failure
    if json:
        print_json(as_data(outcome, consoles, error) | {"seconds": round(time.monotonic() - started, 3)})
    else:
        consoles.show_rest()
        print_lines("".join(f"{printable(line)}\n" for line in outcome.log))
        if outcome.run_hash:
            print(outcome)
    tell(report, outcome, consoles, wanted, error)
    return own_code(outcome.exit_codes.get(configs[0].name) if exit_code else None, error)


def judged(outcome: Outcome, consoles: Consoles, wanted: Wanted) -> ControlError | None:
    """What is wrong with an outcome."""
    crashed = [name for name in consoles.said if outcome.ended.get(name) in CRASHES]
    if crashed:
        return ControlError(Exit.CRASHED, f"{', '.join(crashed)} crashed")
    for name, said in consoles.said.items():
        if (error := judged_alone(name, bytes(said), outcome, wanted)) is not None:
            return error
    if wanted.text and not any(wanted.text in said for said in consoles.said.values()):
        text = wanted.text.decode(errors="replace")
        return ControlError(Exit.FAILURE, f"the run ended without printing '{text}'")
    return None


def judged_alone(name: str, said: bytes, outcome: Outcome, wanted: Wanted) -> ControlError | None:
    """What is wrong with one domain of an outcome."""
    ended, code = outcome.ended.get(name), outcome.exit_codes.get(name)
    if ended in CRASHES:
        return ControlError(Exit.CRASHED, f"{name} crashed")
    if (found := first_of(said, wanted.fail_on)) is not None:
        return ControlError(Exit.FAILURE, f"{name} printed '{found.decode(errors='replace')}'")
    if ended not in WELL or code:
        return ControlError(Exit.FAILURE, f"{name} ended: {ended}" + (f", with code {code}" if code else ""))
    return None


def tell(
    report: Report, outcome: Outcome, consoles: Consoles, wanted: Wanted, error: ControlError | None
) -> None:
    """A case for each domain. What is wrong with the run as a whole is told of the first."""
    errors = {
        name: judged_alone(name, bytes(said), outcome, wanted) if outcome.run_hash else error
        for name, said in consoles.said.items()
    }
    if error is not None and not any(errors.values()):
        errors[next(iter(errors))] = error
    for name, said in consoles.said.items():
        log = outcome.log if errors[name] is not None else []
        console = said[-MAX_TEXT:].decode("utf-8", "replace")
        report.add(name, errors[name], outcome.ended.get(name), console, log)


def as_data(outcome: Outcome, consoles: Consoles, error: ControlError | None) -> dict[str, Any]:
    """The result as plain data."""
    return {
        "seed": outcome.seed,
        "run_hash": outcome.run_hash,
        "system_seconds": outcome.system_seconds,
        "domains": {
            name: {
                "ended": outcome.ended.get(name),
                "exit_code": outcome.exit_codes.get(name),
                "console": said.decode("utf-8", "replace"),
            }
            for name, said in consoles.said.items()
        },
        "code": int(error.code) if error else int(Exit.OK),
        "error": error.message if error else None,
        "log": outcome.log,
    }


def run_topology(
    file: Path, seed: int, seconds: float, wanted: Wanted, report: Report, *, json: bool
) -> None:
    """Run the domains of a topology together, in the file's order; `after` and `wait` do not count. Raises ControlError."""
    from domains.dom0.toolstack.xlcfg.load import config_of
    from domains.xenctl.topology.check import load
    from domains.xenctl.topology.images import make_image

    project = load(file)
    with tempfile.TemporaryDirectory(prefix="xenoscope-run-") as scratch:
        plan = project.plan(Path(scratch))
        if plan.uplinks or plan.vxlans.ports:
            what = "an uplink" if plan.uplinks else "a VXLAN network"
            raise ControlError(
                Exit.USAGE, f"a topology with {what} does not repeat itself: the host's network does not"
            )
        for planned in plan.domains.values():
            for image in planned.images:
                make_image(image, seed)
        configs = [config_of(one.settings, one.name, project.folder) for one in plan.domains.values()]
        run_seeded(configs, seed, seconds, wanted, report, json=json)
