"""Commands on CPU pools: cpupool-list, -create, -destroy, -rename, -cpu-add, -cpu-remove, -migrate, -numa-split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from domains.control.arguments import Arguments
from domains.control.protocol import ControlError, Exit
from domains.control.records import encode
from domains.control.sched_operations import (
    Cpupool,
    CpupoolCpuAdd,
    CpupoolCpuRemove,
    CpupoolCreate,
    CpupoolDestroy,
    CpupoolList,
    CpupoolMigrate,
    CpupoolRename,
)
from domains.xenctl import machine
from domains.xenctl.options import DEFAULT, Argument, Domain, Json, Machine, Option
from domains.xenctl.output import print_json, printable

Pool = Annotated[str, Argument(help="Name or id of a CPU pool.", metavar="POOL")]
Cpus = Annotated[str, Argument(help="CPUs, as 0-3,5,^1 or node:0.", metavar="CPUS")]


def cpupool_list(
    pool: Annotated[str, Argument(help="Only this pool.", metavar="[POOL]")] = "",
    cpus: Annotated[bool, Option("--cpus", "-c", help="Show the CPUs of each.")] = False,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """List CPU pools."""
    with machine.connect(name) as client:
        pools = client.call(CpupoolList(pool or None))
    if json:
        print_json(encode(pools))
        return
    print(f"{'Name':<19}" + ("CPU list" if cpus else "CPUs   Sched     Active   Domain count"))
    for one in pools:
        print(f"{printable(one.name):<19}" + (",".join(map(str, one.cpus)) if cpus else pool_cells(one)))


def pool_cells(pool: Cpupool) -> str:
    """What follows a pool's name, as xl prints it; a pool that there is is active."""
    return f"{len(pool.cpus):>3} {pool.scheduler:>9}       y       {pool.domains:>4}"


def cpupool_create(
    words: Annotated[
        list[str] | None,
        Argument(
            help="A description with name, sched, cpus or nodes, and settings in place of its own.",
            metavar="[FILE] [KEY=VALUE]...",
        ),
    ] = None,
    file: Annotated[Path | None, Option("--defconfig", "-f", help="The description.")] = None,
    dry_run: Annotated[bool, Option("--dryrun", "-n", help="Only show what it would be.")] = False,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Make a CPU pool of free CPUs."""
    source, wanted = described(words or [], file, dry_run=dry_run)
    with machine.connect(name) as client:
        made = client.call(wanted)
    if json:
        print_json(encode(made))
        return
    print(f'Using config file "{printable(source)}"')
    print(f"cpupool name:   {printable(made.name)}")
    print(f"scheduler:      {made.scheduler}")
    print(f"number of cpus: {len(made.cpus)}")


def described(words: list[str], file: Path | None, *, dry_run: bool) -> tuple[str, CpupoolCreate]:
    """Where the description comes from, and the pool that it describes. Raises ControlError."""
    from domains.control.files import read_at_most
    from domains.dom0.toolstack.xlcfg.cpupool import read_pool
    from domains.dom0.toolstack.xlcfg.load import MAX_TEXT
    from domains.dom0.toolstack.xlcfg.syntax import COMMAND_LINE, ConfigError

    settings = [word for word in words if "=" in word]
    files = [Path(word) for word in words if "=" not in word] + ([file] if file is not None else [])
    if len(files) > 1:
        raise ControlError(Exit.USAGE, f"one file describes a CPU pool, not {len(files)}")
    path = files[0] if files else None
    try:
        text = read_at_most(path, MAX_TEXT, errors="replace") if path is not None else ""
        return str(path or "command line"), read_pool(text, path, settings, dry_run=dry_run)
    except OSError as error:
        raise ControlError(Exit.FAILURE, f"cannot read {path}: {error.strerror}") from None
    except ConfigError as error:
        code = Exit.USAGE if error.position.file == COMMAND_LINE else Exit.FAILURE
        raise ControlError(code, str(error)) from None


def cpupool_destroy(pool: Pool, name: Machine = DEFAULT, json: Json = False) -> None:
    """End a CPU pool that has no domains; its CPUs are free."""
    act(name, CpupoolDestroy(pool), json=json)


def cpupool_rename(
    pool: Pool,
    new_name: Annotated[str, Argument(help="Its new name.", metavar="NAME")],
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Give a CPU pool another name."""
    act(name, CpupoolRename(pool, new_name), json=json)


def cpupool_cpu_add(pool: Pool, cpus: Cpus, name: Machine = DEFAULT, json: Json = False) -> None:
    """Put free CPUs into a CPU pool."""
    act(name, CpupoolCpuAdd(pool, cpus), json=json)


def cpupool_cpu_remove(pool: Pool, cpus: Cpus, name: Machine = DEFAULT, json: Json = False) -> None:
    """Take CPUs out of a CPU pool; they are free."""
    act(name, CpupoolCpuRemove(pool, cpus), json=json)


def cpupool_migrate(domain: Domain, pool: Pool, name: Machine = DEFAULT, json: Json = False) -> None:
    """Move a domain into another CPU pool."""
    act(name, CpupoolMigrate(domain, pool), json=json)


def cpupool_numa_split() -> None:
    """Not here: a machine is one NUMA node."""
    raise ControlError(Exit.FAILURE, "there is nothing to split: all CPUs of a machine are of one NUMA node")


def act(name: str, wanted: Arguments[None], *, json: bool) -> None:
    """An operation without a result."""
    with machine.connect(name) as client:
        client.call(wanted)
    if json:
        answer: dict[str, Any] = encode(wanted)
        print_json(answer | {"done": True})
