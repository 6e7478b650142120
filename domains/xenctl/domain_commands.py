"""Commands on domains: create, destroy, list, pause, unpause, shutdown, reboot, domid, domname."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer

from domains.control.description import DomainConfig
from domains.control.operations import (
    Arguments,
    Create,
    CreateWatched,
    Destroy,
    Domid,
    Domname,
    List,
    Pause,
    Reboot,
    Shutdown,
    Unpause,
    name_of,
)
from domains.control.protocol import ControlError, Exit
from domains.control.records import encode
from domains.xenctl import machine
from domains.xenctl.options import DEFAULT, Domain, Json, Machine
from domains.xenctl.output import print_json, print_table, print_warning, printable

Wait = Annotated[bool, typer.Option("--wait", "-w", help="Wait until the domain has ended.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait; 0: for ever.")]
R = TypeVar("R")
CREATE_TIMEOUT: Final = 120.0
"""Seconds in which a domain must be made."""
WISHES: Final = {Shutdown: "poweroff", Reboot: "reboot"}
"""How a domain ends that does as it was asked."""


def create(
    file: Annotated[Path, typer.Argument(help="Description of the domain, as xl.cfg(5).", metavar="FILE")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE in place of the file's.", metavar="[KEY=VALUE]...")
    ] = None,
    console: Annotated[bool, typer.Option("--console", "-c", help="Follow the domain's console.")] = False,
    paused: Annotated[bool, typer.Option("--paused", "-p", help="Leave the domain paused.")] = False,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Make a domain; starts the machine if it does not run."""
    from domains.xenctl.attach import follow

    config = described(file, overrides or [])
    machine.ensure_started(name)
    with machine.connect(name) as client:
        if console:
            follow(client, client.post(CreateWatched(config, paused)))
            return
        made = client.call(Create(config, paused), timeout=CREATE_TIMEOUT)
    for warning in made.warnings:
        print_warning(warning)
    if json:
        print_json(encode(made))
    else:
        print(f"domain {made.domid} ({printable(made.name)}) created")


def described(file: Path, overrides: list[str]) -> DomainConfig:
    """What a file describes. Raises ControlError with the place of what is wrong."""
    from domains.dom0.toolstack.xlcfg.load import load
    from domains.dom0.toolstack.xlcfg.syntax import COMMAND_LINE, ConfigError

    try:
        return load(file, overrides, print_warning)
    except OSError as error:
        raise ControlError(Exit.FAILURE, f"cannot read {file}: {error.strerror}") from None
    except ConfigError as error:
        code = Exit.USAGE if error.position.file == COMMAND_LINE else Exit.FAILURE
        raise ControlError(code, str(error)) from None


def destroy(domain: Domain, name: Machine = DEFAULT, json: Json = False) -> None:
    """End a domain at once."""
    act(name, Destroy(domain), json=json)


def pause(domain: Domain, name: Machine = DEFAULT, json: Json = False) -> None:
    """Let a domain run no further until unpause."""
    act(name, Pause(domain), json=json)


def unpause(domain: Domain, name: Machine = DEFAULT, json: Json = False) -> None:
    """Let a paused domain go on."""
    act(name, Unpause(domain), json=json)


def act(name: str, wanted: Destroy | Pause | Unpause, *, json: bool) -> None:
    """An operation on a domain that has no result."""
    with machine.connect(name) as client:
        client.call(wanted)
    if json:
        print_json({"domain": wanted.domain, "done": name_of(type(wanted))})


def shutdown(
    domain: Domain, wait: Wait = False, timeout: Timeout = 0.0, name: Machine = DEFAULT, json: Json = False
) -> None:
    """Ask a domain to power off."""
    ask(name, Shutdown(domain, wait, timeout), json=json)


def reboot(
    domain: Domain, wait: Wait = False, timeout: Timeout = 0.0, name: Machine = DEFAULT, json: Json = False
) -> None:
    """Ask a domain to reboot."""
    ask(name, Reboot(domain, wait, timeout), json=json)


def ask(name: str, wanted: Shutdown | Reboot, *, json: bool) -> None:
    """A request that the domain may take its time for, or not heed at all."""
    with machine.connect(name) as client:
        reason = client.call(wanted, timeout=math.inf).reason
    if json:
        print_json({"domain": wanted.domain, "reason": reason})
    if reason == "crash":
        raise ControlError(Exit.CRASHED, f"domain '{wanted.domain}' crashed; 'xenctl dmesg' says why")
    if wanted.wait and reason != WISHES[type(wanted)]:
        how = f"ended otherwise ({reason})" if reason is not None else "was destroyed"
        raise ControlError(Exit.FAILURE, f"domain '{wanted.domain}' {how}")


def list_(
    domain: Annotated[str, typer.Argument(help="Only this domain.", metavar="[DOMAIN]")] = "",
    long: Annotated[bool, typer.Option("--long", "-l", help="Show how each domain was made.")] = False,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """List the domains."""
    with machine.connect(name) as client:
        domains = client.call(List(domain or None))
    if json or long:
        print_json(encode(domains))
        return
    header = ("Name", "ID", "Mem", "VCPUs", "State", "Time(s)", "PID")
    rows = [
        (
            printable(about.name or "(null)"),
            about.domid,
            about.memory_kib // 1024,
            about.vcpus,
            about.state,
            f"{about.cpu_time:.1f}",
            about.pid or "-",
        )
        for about in domains
    ]
    print_table(header, rows, frozenset(header) - {"Name", "State"})


def domid(domain: Domain, name: Machine = DEFAULT, json: Json = False) -> None:
    """Print the id of a domain."""
    show(name, Domid(domain), json=json)


def domname(domain: Domain, name: Machine = DEFAULT, json: Json = False) -> None:
    """Print the name of a domain."""
    show(name, Domname(domain), json=json)


def show(name: str, wanted: Arguments[R], *, json: bool) -> None:
    """An operation whose result is one value."""
    with machine.connect(name) as client:
        value = client.call(wanted)
    if json:
        print_json({name_of(type(wanted)): value})
    else:
        print(printable(str(value)))


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    for command in (create, destroy, pause, unpause, shutdown, reboot, domid, domname):
        app.command()(command)
    app.command("list")(list_)
