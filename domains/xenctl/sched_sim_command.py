"""xenctl sched-sim: a workload under one scheduler or several, in virtual time. What it needs is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from domains.xenctl.options import Argument, Json, Option


def sched_sim(
    file: Annotated[Path, Argument(help="The workload, as YAML.", metavar="WORKLOAD")],
    sched: Annotated[
        list[str] | None,
        Option("--sched", metavar="NAME[:SLICE]", help="A scheduler, as credit2 or credit:5ms; repeatable."),
    ] = None,
    cpus: Annotated[int | None, Option("--cpus", min=1, max=64, help="Emulated CPUs.")] = None,
    seconds: Annotated[float | None, Option("--seconds", help="Virtual time that passes.")] = None,
    hours: Annotated[float | None, Option("--hours", help="The same in hours.")] = None,
    svg: Annotated[Path | None, Option("--svg", metavar="FILE", help="Draw the result.")] = None,
    png: Annotated[Path | None, Option("--png", metavar="FILE", help="Draw the result.")] = None,
    json: Json = False,
) -> None:
    """Simulate how schedulers share CPUs out: shares, wake-up latencies, switches, missed deadlines. Needs no machine."""
    from domains.xenctl.sched_sim.command import Wanted, perform

    perform(Wanted(file, sched or [], cpus, seconds, hours, svg, png, json))
