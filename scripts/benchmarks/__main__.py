"""scripts/bench [NAME…] [--json | --markdown] [--quick]: measure all figures but those beside Xen, or those named.

The beginning of a name, up to an underscore, names all figures that begin so: `net`, `x86`. `peer`, or one of its figures,
must be named: it boots Debian's Xen in QEMU, which takes minutes, and downloads packages the first time.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Final

from scripts.benchmarks import (
    between_domains,
    block,
    budgets,
    commands,
    crowd,
    fork,
    hypercalls,
    life,
    migration,
    net,
    sched,
    store,
    validation,
)
from scripts.benchmarks.figure import QUICK, Figure, Goal, Sizes, Unavailable, host
from scripts.benchmarks.peer import rows as peer
from scripts.benchmarks.report import markdown, row
from scripts.benchmarks.x86 import inside, linux, paging

Family = Callable[[Sizes], Iterator[Figure]]

FIGURES: Final[dict[str, Family]] = {
    "hypercall_rtt": hypercalls.hypercall_rtt,
    "hypercall_rtt_250": hypercalls.hypercall_rtt_250,
    "budget_units": budgets.budget_units,
    "l1_validation": validation.l1_validation,
    "mmu_update_batch": hypercalls.mmu_update,
    "mmu_update_single": hypercalls.mmu_update,
    "machine_start": life.machine_start,
    "command_list": commands.on_domains,
    "command_create": commands.on_domains,
    "command_destroy": commands.on_domains,
    "command_run": commands.run,
    "domain_create": life.create_and_destroy,
    "domain_destroy": life.create_and_destroy,
    "domain_private_memory": life.domain_private_memory,
    "domains_alive": life.domains_alive,
    "block_read": block.block,
    "block_iops": block.block,
    "block_fairness": block.fairness,
    "store_write": store.store,
    "store_read": store.store,
    "event_rtt": between_domains.event_rtt,
    "grant_copy": between_domains.grant_copy,
    "x86_first_line": inside.first_line,
    "guest_mips": inside.inside,
    "x86_hypercall": inside.inside,
    "x86_page_fault": inside.inside,
    "x86_syscall": inside.inside,
    "x86_context_switch": inside.inside,
    **dict.fromkeys(paging.NAMES, paging.paging),
    **dict.fromkeys(linux.KINDS, linux.linux_init),
    **dict.fromkeys(migration.MOVE_NAMES, migration.migrate),
    **dict.fromkeys(fork.KINDS, fork.fork),
    "sched_scaling": sched.scaling,
    "sched_wakeup": sched.wakeup,
    "net_throughput": net.net,
    "net_pps": net.net,
    "net_rtt": net.net,
    "net_fairness": net.net_fairness,
    "vxlan_throughput": net.vxlan,
    "vxlan_pps": net.vxlan,
    "vxlan_rtt": net.vxlan,
    **dict.fromkeys(crowd.WORK, crowd.crowd),
    **peer.FAMILIES,
}

GOALS: Final = {
    "hypercall_rtt": Goal("ratio", 1.5),
    "hypercall_rtt_250": Goal("ratio", 1.5),
    "budget_units": Goal("ratio", 3),
    "l1_validation": Goal("ratio", 0.1),
    "mmu_update_batch": Goal("value", 500_000, at_least=True),
    "mmu_update_single": Goal("ratio", 1.7),
    "machine_start": Goal("value", 1.5),
    "domain_create": Goal("value", 100),
    "domain_private_memory": Goal("value", 8),
    "domains_alive": Goal("value", 250, at_least=True),
    "block_read": Goal("ratio", 0.25, at_least=True),
    "x86_first_line": Goal("value", 200),
    "migrate_total": Goal("ratio", 4),
    "migrate_total_light": Goal("ratio", 4),
    "migrate_down": Goal("value", 300),
    "migrate_down_light": Goal("value", 300),
    **dict.fromkeys(fork.KINDS, Goal("value", 300)),
    "net_fairness": Goal("ratio", 2),
    **peer.GOALS,
}
"""Of the others only the trend is watched."""

UNNAMED: Final = "default: all but peer_…, which boot Debian's Xen in QEMU: they take minutes, and download 100 MB the first time"


def main(arguments: list[str]) -> int:
    """Measure what is asked for and print it; the exit status is 0."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure the machine.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(FIGURES)}; {UNNAMED}")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a list of objects")
    form.add_argument("--markdown", action="store_true", help="print a table, as in docs/performance.md")
    parser.add_argument("--quick", action="store_true", help="few and short rounds: only shows that all runs")
    options = parser.parse_args(arguments)
    wanted = asked_for(options.names)
    for name in options.names:
        if not meant_by(name):
            parser.error(f"there is no figure '{name}'; there are {', '.join(FIGURES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    figures = []
    for figure in measured(wanted, QUICK if options.quick else Sizes()):
        figures.append(figure)
        if not options.json and not options.markdown:
            print(row(figure, GOALS.get(figure.name)), flush=True)
    if options.json:
        print(json.dumps([figure.as_json() for figure in figures], indent=2))
        return 0
    if options.markdown:
        print(markdown((figure, GOALS.get(figure.name)) for figure in figures), end="\n\n")
    print(f"measured on {host()}")
    return 0


def asked_for(names: list[str]) -> list[str]:
    """The figures that these names mean; without names, all that do not boot real Xen."""
    found = [figure for name in names for figure in meant_by(name)]
    return found or [figure for figure in FIGURES if figure not in peer.FAMILIES]


def meant_by(name: str) -> list[str]:
    """The figures of that name, or whose names begin with it."""
    return [name] if name in FIGURES else [figure for figure in FIGURES if figure.startswith(f"{name}_")]


def measured(wanted: list[str], sizes: Sizes) -> Iterator[Figure]:
    """The figures of these names, each family run once. What cannot be measured here is said in one line on stderr."""
    for family in dict.fromkeys(FIGURES[name] for name in wanted):
        try:
            for figure in family(sizes):
                if figure.name in wanted:
                    yield figure
        except Unavailable as missing:
            for name in (name for name in wanted if FIGURES[name] is family):
                print(f"not measured: {name}: {missing}", file=sys.stderr)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BrokenPipeError:  # whoever reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
