"""sched-rtds: parameters of the RTDS scheduler, which has them for each vCPU.

Options are repeated to set several vCPUs at once, as with xl: `-v 0 -p 100 -b 50 -e 1 -v 3 -p 300 -b 150 -e 0`.
"""

from __future__ import annotations

from typing import Annotated, Final

from domains.control.protocol import ControlError, Exit
from domains.control.records import encode
from domains.control.sched_operations import (
    SchedList,
    SchedParams,
    SchedRow,
    SchedSetVcpus,
    SchedShow,
    VcpuParams,
)
from domains.xenctl import machine
from domains.xenctl.options import DEFAULT, Json, Machine, Option
from domains.xenctl.output import print_json, printable
from domains.xenctl.sched_commands import NAMED, Columns, DomainOption, print_rows

RTDS: Final = "rtds"
ALL: Final = "all"
PARAMETERS: Final[Columns] = (
    ("Period", 9, lambda row: row.params.period),
    ("Budget", 9, lambda row: row.params.budget),
    ("Extratime", 10, lambda row: "yes" if row.params.extratime else "no"),
)
OF_DOMAINS: Final[Columns] = (*NAMED, *PARAMETERS)
OF_VCPUS: Final[Columns] = (*NAMED, ("VCPU", 4, lambda row: row.vcpu), *PARAMETERS)


def sched_rtds(
    domain: DomainOption = None,
    vcpus: Annotated[list[str] | None, Option("--vcpuid", "-v", help="A vCPU, or all; repeatable.")] = None,
    periods: Annotated[list[int] | None, Option("--period", "-p", help="us; repeatable.")] = None,
    budgets: Annotated[
        list[int] | None, Option("--budget", "-b", help="us of each period; repeatable.")
    ] = None,
    extratimes: Annotated[
        list[int] | None,
        Option("--extratime", "-e", min=0, max=1, help="1: time that is left over, too; repeatable."),
    ] = None,
    pool: Annotated[str | None, Option("--cpupool", "-c", help="Only this CPU pool.")] = None,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Show or set parameters of the RTDS scheduler."""
    named = vcpus_named(vcpus or [])
    wanted = parameters(named, periods or [], budgets or [], extratimes or [])
    if pool is not None and (domain is not None or named is not None or wanted):
        raise ControlError(Exit.USAGE, "-c goes with no other option")
    if domain is None and (named or wanted):
        raise ControlError(Exit.USAGE, "name the domain with -d")
    by_vcpu = named is not None
    with machine.connect(name) as client:
        if domain is None:
            pools = client.call(SchedList(RTDS, pool, by_vcpu))
            if json:
                print_json(encode(pools))
                return
            for one in pools:
                print(f"Cpupool {printable(one.pool)}: sched=RTDS")
                show(one.rows, by_vcpu=by_vcpu)
        elif wanted:
            client.call(SchedSetVcpus(RTDS, domain, wanted))
            if json:
                print_json({"done": True})
        else:
            rows = client.call(SchedShow(RTDS, domain, by_vcpu, named or ()))
            if json:
                print_json(encode(rows))
            else:
                show(rows, by_vcpu=by_vcpu)


def show(rows: tuple[SchedRow, ...], *, by_vcpu: bool) -> None:
    """Print the parameters of domains, or of vCPUs."""
    print_rows(OF_VCPUS if by_vcpu else OF_DOMAINS, rows)


def vcpus_named(words: list[str]) -> tuple[int, ...] | None:
    """The vCPUs that -v names; none: all of them; None: there is no -v. Raises ControlError."""
    if not words:
        return None
    if ALL in words:
        if len(words) > 1:
            raise ControlError(Exit.USAGE, "'-v all' goes with no other -v")
        return ()
    for word in words:
        if not (word.isascii() and word.isdecimal() and len(word) < 10):
            raise ControlError(Exit.USAGE, f"'{word}' is no vCPU; write a number, or all")
    return tuple(map(int, words))


def parameters(
    named: tuple[int, ...] | None, periods: list[int], budgets: list[int], extratimes: list[int]
) -> tuple[VcpuParams, ...]:
    """What each vCPU is given: every one of them gets all three parameters. Raises ControlError."""
    if not (periods or budgets or extratimes):
        return ()
    if named is None:
        raise ControlError(Exit.USAGE, "name the vCPUs with -v")
    count = len(named) or 1
    if not len(periods) == len(budgets) == len(extratimes) == count:
        raise ControlError(Exit.USAGE, "each -v takes one -p, one -b and one -e")
    return tuple(
        VcpuParams(vcpu, SchedParams(period=period, budget=budget, extratime=bool(extra)))
        for vcpu, period, budget, extra in zip(named or (None,), periods, budgets, extratimes, strict=True)
    )
