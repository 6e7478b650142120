"""Commands on schedulers: sched-credit, sched-credit2, sched-rtds, sched-bvt, with xl's options.

Without options each lists the pools under its scheduler with their domains; -d asks about one domain, or sets its parameters;
-s is about the scheduler of a whole pool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Final

from domains.control.client import ControlClient
from domains.control.protocol import ControlError, Exit
from domains.control.records import encode
from domains.control.sched_operations import (
    PoolParams,
    SchedList,
    SchedParams,
    SchedPool,
    SchedRow,
    SchedSet,
    SchedSetPool,
    SchedShow,
    SchedShowPool,
)
from domains.xenctl import machine
from domains.xenctl.options import DEFAULT, Json, Machine, Option
from domains.xenctl.output import print_json, printable

DomainOption = Annotated[str | None, Option("--domain", "-d", help="Name or id of a domain.")]
Weight = Annotated[int | None, Option("--weight", "-w", help="Its share, 1 to 65535; 256 is usual.")]
Cap = Annotated[int | None, Option("--cap", "-c", help="Percent of one CPU at most; 0: no cap.")]
PoolOption = Annotated[str | None, Option("--cpupool", "-p", help="Only this CPU pool.")]
OfPool = Annotated[bool, Option("--schedparam", "-s", help="About a whole pool: Pool-0, or that of -p.")]
RateLimit = Annotated[
    int | None, Option("--ratelimit_us", "-r", help="us that a vCPU keeps its CPU at least; 0: off.")
]

Columns = Sequence[tuple[str, int, Callable[[SchedRow], object]]]
"""Title, width, and what a row has there. The first is flush left."""
NAMED: Final[Columns] = (
    ("Name", 33, lambda row: printable(row.name or "(null)")),
    ("ID", 4, lambda row: row.domid),
)
CREDIT: Final[Columns] = (
    *NAMED,
    ("Weight", 6, lambda row: row.params.weight),
    ("Cap", 4, lambda row: row.params.cap),
)
BVT: Final[Columns] = (
    *NAMED,
    ("Weight", 6, lambda row: row.params.weight),
    ("Warp", 4, lambda row: "yes" if row.params.warp else "no"),
    ("Value", 9, lambda row: row.params.warp_value),
    ("Limit", 9, lambda row: row.params.warp_limit),
    ("Unwarp", 9, lambda row: row.params.unwarp),
)


def sched_credit(
    domain: DomainOption = None,
    weight: Weight = None,
    cap: Cap = None,
    pool: PoolOption = None,
    of_pool: OfPool = False,
    tslice: Annotated[
        int | None, Option("--tslice_ms", "-t", help="Length of a slice, 1 to 1000 ms.")
    ] = None,
    ratelimit: RateLimit = None,
    delay: Annotated[
        int | None,
        Option("--migration_delay_us", "-m", help="us after which a vCPU may move to another CPU."),
    ] = None,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Show or set parameters of the credit scheduler."""
    wanted = SchedParams(weight=weight, cap=cap)
    of_all = PoolParams(tslice_ms=tslice, ratelimit_us=ratelimit, migration_delay_us=delay)
    SchedCommand("credit", CREDIT, credit_line, name, json=json).run(
        domain, wanted, pool, of_all, of_pool=of_pool
    )


def sched_credit2(
    domain: DomainOption = None,
    weight: Weight = None,
    cap: Cap = None,
    pool: PoolOption = None,
    of_pool: OfPool = False,
    ratelimit: RateLimit = None,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Show or set parameters of the credit2 scheduler."""
    wanted, of_all = SchedParams(weight=weight, cap=cap), PoolParams(ratelimit_us=ratelimit)
    SchedCommand("credit2", CREDIT, credit2_line, name, json=json).run(
        domain, wanted, pool, of_all, of_pool=of_pool
    )


def sched_bvt(
    domain: DomainOption = None,
    weight: Weight = None,
    warp: Annotated[
        int | None,
        Option("--warp", "-W", min=0, max=1, help="1: it is favoured when it wakes; 0: not."),
    ] = None,
    value: Annotated[
        int | None, Option("--warp_value_us", "-V", help="us by which it is ahead while it warps.")
    ] = None,
    limit: Annotated[
        int | None, Option("--warp_limit_us", "-L", help="us it warps at a time; 0: no limit.")
    ] = None,
    unwarp: Annotated[int | None, Option("--unwarp_us", "-U", help="us until it may warp again.")] = None,
    pool: PoolOption = None,
    of_pool: OfPool = False,
    allowance: Annotated[
        int | None,
        Option("--ctx_allow_us", "-a", help="us by which a running vCPU may get ahead of others."),
    ] = None,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Show or set parameters of the BVT scheduler (borrowed virtual time)."""
    wanted = SchedParams(
        weight=weight,
        warp=None if warp is None else bool(warp),
        warp_value=value,
        warp_limit=limit,
        unwarp=unwarp,
    )
    SchedCommand("bvt", BVT, bvt_line, name, json=json).run(
        domain, wanted, pool, PoolParams(ctx_allow_us=allowance), of_pool=of_pool
    )


def credit_line(pool: SchedPool) -> str:
    """What credit has for a whole pool."""
    params = pool.params
    return (
        f"tslice={params.tslice_ms}ms ratelimit={params.ratelimit_us}us"
        f" migration-delay={params.migration_delay_us}us"
    )


def credit2_line(pool: SchedPool) -> str:
    """What credit2 has for a whole pool."""
    return f"ratelimit={pool.params.ratelimit_us}us"


def bvt_line(pool: SchedPool) -> str:
    """What BVT has for a whole pool."""
    return f"ctx-allow={pool.params.ctx_allow_us}us"


class SchedCommand:
    """One of the commands whose parameters are a domain's and a pool's, as xl's sched-credit has them."""

    def __init__(
        self, scheduler: str, columns: Columns, line: Callable[[SchedPool], str], name: str, *, json: bool
    ) -> None:
        self._scheduler = scheduler
        self._columns = columns
        self._line = line
        self._name = name
        self._json = json

    def run(
        self, domain: str | None, wanted: SchedParams, pool: str | None, of_all: PoolParams, *, of_pool: bool
    ) -> None:
        """Do what the options ask for. Raises ControlError."""
        check_options(domain, wanted, pool, of_all, of_pool=of_pool)
        with machine.connect(self._name) as client:
            if of_pool:
                self._pool(client, pool, of_all)
            elif domain is None:
                self._list(client.call(SchedList(self._scheduler, pool)))
            elif wanted != SchedParams():
                client.call(SchedSet(self._scheduler, domain, wanted))
                self._done()
            else:
                self._rows(client.call(SchedShow(self._scheduler, domain)))

    def _pool(self, client: ControlClient, pool: str | None, of_all: PoolParams) -> None:
        if of_all != PoolParams():
            client.call(SchedSetPool(self._scheduler, of_all, pool))
            self._done()
        else:
            shown = client.call(SchedShowPool(self._scheduler, pool))
            if self._json:
                print_json(encode(shown))
            else:
                print(f"Cpupool {printable(shown.pool)}: {self._line(shown)}")

    def _list(self, pools: tuple[SchedPool, ...]) -> None:
        if self._json:
            print_json(encode(pools))
            return
        for one in pools:
            print(f"Cpupool {printable(one.pool)}: {self._line(one)}")
            print_rows(self._columns, one.rows)

    def _rows(self, rows: tuple[SchedRow, ...]) -> None:
        if self._json:
            print_json(encode(rows))
        else:
            print_rows(self._columns, rows)

    def _done(self) -> None:
        if self._json:
            print_json({"done": True})


def check_options(
    domain: str | None, wanted: SchedParams, pool: str | None, of_all: PoolParams, *, of_pool: bool
) -> None:
    """Which options go together, as with xl. Raises ControlError."""
    of_domain = domain is not None or wanted != SchedParams()
    if (pool is not None or of_pool) and of_domain:
        raise ControlError(Exit.USAGE, "options of a CPU pool and options of a domain do not go together")
    if domain is None and of_domain:
        raise ControlError(Exit.USAGE, "name the domain with -d")
    if not of_pool and of_all != PoolParams():
        raise ControlError(Exit.USAGE, "parameters of a CPU pool are set with -s")


def print_rows(columns: Columns, rows: Sequence[SchedRow]) -> None:
    """A table in the manner of xl: one blank between columns."""
    first, *others = columns
    print(" ".join([first[0].ljust(first[1]), *(title.rjust(width) for title, width, _ in others)]))
    for row in rows:
        cells = [str(first[2](row)).ljust(first[1])]
        cells += [str(cell(row)).rjust(width) for _, width, cell in others]
        print(" ".join(cells))
