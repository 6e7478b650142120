"""Commands on domains: create, destroy, list, pause, unpause, shutdown, reboot, domid, domname."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from domains.control.protocol import ControlError, Exit, Op
from domains.xenctl import machine
from domains.xenctl.attach import follow
from domains.xenctl.folder import folder_of, supervisor_pid
from domains.xenctl.options import DEFAULT, Domain, Json, Machine
from domains.xenctl.output import print_json, print_table

Wait = Annotated[bool, typer.Option("--wait", "-w", help="Wait until the domain has ended.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait; 0: for ever.")]
CREATE_TIMEOUT = 120.0


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
    text = checked_description(file, overrides or [])
    machine.ensure_started(name)
    arguments: dict[str, Any] = {
        "text": text,
        "file": str(file),
        "folder": str(file.absolute().parent),
        "overrides": overrides or [],
        "paused": paused,
    }
    with machine.connect(name) as client:
        if console:
            follow(client, client.post(Op.create, **arguments, console=True))
            return
        made = client.call(Op.create, timeout=CREATE_TIMEOUT, **arguments)
    if json:
        print_json(made)
    else:
        print(f"domain {made['domid']} ({made['name']}) created")


def checked_description(file: Path, overrides: list[str]) -> str:
    """The text of a description that has no mistakes. Raises ControlError with the place of the first one."""
    from domains.dom0.toolstack.xlcfg.load import read_config
    from domains.dom0.toolstack.xlcfg.syntax import COMMAND_LINE, ConfigError

    try:
        text = file.read_text(encoding="utf-8", errors="replace")
        read_config(text, str(file), file.absolute().parent, overrides)
    except OSError as error:
        raise ControlError(Exit.FAILURE, f"cannot read {file}: {error.strerror}") from None
    except ConfigError as error:
        code = Exit.USAGE if error.position.file == COMMAND_LINE else Exit.FAILURE
        raise ControlError(code, str(error)) from None
    return text


def destroy(domain: Domain, name: Machine = DEFAULT, json: Json = False) -> None:
    """End a domain at once."""
    act(name, json, Op.destroy, domain)


def pause(domain: Domain, name: Machine = DEFAULT, json: Json = False) -> None:
    """Let a domain run no further until unpause."""
    act(name, json, Op.pause, domain)


def unpause(domain: Domain, name: Machine = DEFAULT, json: Json = False) -> None:
    """Let a paused domain go on."""
    act(name, json, Op.unpause, domain)


def act(name: str, json: bool, op: Op, domain: str) -> None:
    """An operation that has no result."""
    with machine.connect(name) as client:
        client.call(op, domain=domain)
    if json:
        print_json({"domain": domain, "done": str(op)})


def shutdown(
    domain: Domain, wait: Wait = False, timeout: Timeout = 0.0, name: Machine = DEFAULT, json: Json = False
) -> None:
    """Ask a domain to power off."""
    ask(name, json, Op.shutdown, domain, wait, timeout)


def reboot(
    domain: Domain, wait: Wait = False, timeout: Timeout = 0.0, name: Machine = DEFAULT, json: Json = False
) -> None:
    """Ask a domain to reboot."""
    ask(name, json, Op.reboot, domain, wait, timeout)


def ask(name: str, json: bool, op: Op, domain: str, wait: bool, timeout: float) -> None:
    """A request that the domain may take its time for, or not heed at all."""
    with machine.connect(name) as client:
        answer = client.post(op, domain=domain, wait=wait, timeout=timeout)
        result = client.answer_to(answer)
    if json:
        print_json({"domain": domain, **result})
    if result["reason"] == "crash":
        raise ControlError(Exit.CRASHED, f"domain '{domain}' crashed; 'xenctl dmesg' says why")


def list_(
    domain: Annotated[str, typer.Argument(help="Only this domain.", metavar="[DOMAIN]")] = "",
    long: Annotated[bool, typer.Option("--long", "-l", help="Show how each domain was made.")] = False,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """List the domains."""
    from domains.xenctl.processes import domain_pids

    with machine.connect(name) as client:
        domains = client.call(Op.list_, domain=domain)
    supervisor = supervisor_pid(folder_of(name))
    pids = domain_pids(supervisor) if supervisor is not None else {}
    for about in domains:
        about["pid"] = pids.get(about["domid"])
    if json or long:
        print_json(domains)
        return
    header = ("Name", "ID", "Mem", "VCPUs", "State", "Time(s)", "PID")
    rows = [
        (
            about["name"] or "(null)",
            about["domid"],
            about["memory_kib"] // 1024,
            about["vcpus"],
            about["state"],
            f"{about['cpu_time']:.1f}",
            about["pid"] or "-",
        )
        for about in domains
    ]
    print_table(header, rows, frozenset(header) - {"Name", "State"})


def domid(domain: Domain, name: Machine = DEFAULT, json: Json = False) -> None:
    """Print the id of a domain."""
    show(name, json, Op.domid, domain)


def domname(domain: Domain, name: Machine = DEFAULT, json: Json = False) -> None:
    """Print the name of a domain."""
    show(name, json, Op.domname, domain)


def show(name: str, json: bool, op: Op, domain: str) -> None:
    """An operation whose result is one value."""
    with machine.connect(name) as client:
        value = client.call(op, domain=domain)
    if json:
        print_json({str(op): value})
    else:
        print(value)


def register(app: typer.Typer) -> None:
    for command in (create, destroy, pause, unpause, shutdown, reboot, domid, domname):
        app.command()(command)
    app.command("list")(list_)
