"""What a failed test is told of its machines: sections of pytest's report, each of one text that is bounded and safe to print."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from domains.control.protocol import ControlError
from domains.testing.machine import LOG_TIMEOUT, XenMachine
from domains.xenctl.output import printable

MAX_TEXT: Final = 1 << 16
"""Characters of a section."""


def sections(machine: XenMachine, *, keep: bool) -> Iterator[tuple[str, str]]:
    """Title and text of each. `keep`: the machine is to stay."""
    for domain in machine.domains:
        how = "runs" if domain.ended is None else f"ended: {domain.ended.reason}"
        yield f"Xen console of {domain.name} ({how})", shown(domain.console)
    if (why := machine.why()) is not None:
        yield "Xen machine has died", shown(why)
    yield "Xen hypervisor log", shown(machine.log())
    yield "xenstore", shown(machine.nodes())
    yield "Xen seed", seed_of(machine)
    if keep:
        machine.keep()
        name = machine.name
        yield "Xen machine kept", f"xenctl list --machine {name}\nxenctl stop --machine {name}    # ends it"


def seed_of(machine: XenMachine) -> str:
    """How to have the same run again."""
    if machine.seed is None:
        return "none: the machine ran in real time; --xen-seed N makes machines that repeat themselves"
    try:
        run_hash = machine.info(LOG_TIMEOUT).run_hash
    except (ControlError, OSError):
        run_hash = None
    return f"--xen-seed {machine.seed} repeats it" + (
        f"; the run's hash so far is {run_hash}" if run_hash else ""
    )


def shown(text: str) -> str:
    """The end of a text, its control characters as numbers."""
    last = text[-MAX_TEXT:]
    begin = f"[… {len(text) - len(last)} characters before are left out …]\n" if len(text) > len(last) else ""
    return begin + "\n".join(printable(line) for line in last.splitlines())
