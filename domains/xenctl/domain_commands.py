"""Commands on domains: create, destroy, pause, unpause, domid, domname."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, TypeVar

from domains.control.arguments import Arguments
from domains.control.client import ControlClient
from domains.control.description import Action, DomainConfig
from domains.control.operations import (
    Create,
    Created,
    CreateWatched,
    Destroy,
    Domid,
    Domname,
    Pause,
    Unpause,
    Wait,
    name_of,
)
from domains.control.protocol import ControlError, Exit
from domains.control.records import encode
from domains.xenctl import machine
from domains.xenctl.folder import folder_of, is_running
from domains.xenctl.options import DEFAULT, Argument, Domain, Json, Machine, Option
from domains.xenctl.output import print_error, print_json, print_warning, printable

File = Annotated[Path | None, Argument(help="Description of the domain, as xl.cfg(5).", metavar="FILE")]
Overrides = Annotated[
    list[str] | None, Argument(help="KEY=VALUE in place of the file's.", metavar="[KEY=VALUE]...")
]
ACTIONS: Final = ("on_poweroff", "on_reboot", "on_crash", "on_watchdog", "on_soft_reset")
"""What a description says about a domain's end."""
Dryrun = Annotated[bool, Option("--dryrun", "-n", help="Make nothing; print what would be made, as JSON.")]
Foreground = Annotated[bool, Option("--foreground", "-F", help="Stay until the domain has ended.")]
R = TypeVar("R")
CREATE_TIMEOUT: Final = 120.0
"""Seconds in which a domain must be made."""


def create(
    file: File = None,
    overrides: Overrides = None,
    defconfig: Annotated[
        Path | None, Option("--defconfig", "-f", help="The description, in place of FILE.", metavar="FILE")
    ] = None,
    console: Annotated[bool, Option("--console", "-c", help="Follow the domain's console.")] = False,
    paused: Annotated[bool, Option("--paused", "-p", help="Leave the domain paused.")] = False,
    quiet: Annotated[bool, Option("--quiet", "-q", help="Say nothing if it is made.")] = False,
    dryrun: Dryrun = False,
    foreground: Foreground = False,
    unattended: Annotated[
        bool, Option("--unattended", "-e", help="Leave it as it ends, whatever its description says.")
    ] = False,
    vncviewer: Annotated[
        bool, Option("--vncviewer", "-V", "--vncviewer-autopass", "-A", help="As xl's; there is no display.")
    ] = False,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Make a domain; starts the machine if it does not run."""
    config = described(file, overrides or [], defconfig)
    if unattended:
        config = config.replaced(**dict.fromkeys(ACTIONS, Action.PRESERVE))
    if vncviewer:
        print_warning(
            "there is no display to view: a domain here has no device model; --console shows its console"
        )
    if dryrun:
        print_json(encode(config))
        return
    ensure_started(name)
    with machine.connect(name) as client:
        if console:
            from domains.xenctl.attach import follow

            follow(client, client.post(CreateWatched(config, paused)))
        else:
            made = client.call(Create(config, paused or foreground), timeout=CREATE_TIMEOUT)
            tell_of(made, quiet=quiet, json=json)
        if foreground and not unattended:
            stay(client, config.name, unpause=not console and not paused)


def tell_of(made: Created, *, quiet: bool, json: bool) -> None:
    """That a domain was made, and with what warnings."""
    for warning in made.warnings:
        print_warning(warning)
    if json:
        print_json(encode(made))
    elif not quiet:
        print(f"domain {made.domid} ({printable(made.name)}) created", flush=True)


def stay(client: ControlClient, domain: str, *, unpause: bool) -> None:
    """Wait for a domain's end, over its reboots. Raises ControlError if it crashed."""
    waiting = client.post(Wait(domain, reboots=True))
    if unpause:  # only now, for it might have ended before anybody waits
        client.post(Unpause(domain))
    while (reply := client.receive(None)) is None or reply.id != waiting:
        if reply is not None:
            reply.result()
    try:
        reason = reply.result().reason
    except ControlError as error:
        if error.code is Exit.NO_SUCH_DOMAIN:  # it is over already
            return
        raise
    print_error(f"the domain ended: {reason or 'destroyed'}")
    if reason == "crash":
        raise ControlError(Exit.CRASHED, f"domain '{domain}' crashed; 'xenctl dmesg' says why")


def ensure_started(name: str) -> None:
    """Start the machine with default settings unless it runs, or is being started."""
    if not is_running(folder_of(name)):
        from domains.xenctl.launch import Hardware, start_machine

        start_machine(name, Hardware())


def described(file: Path | None, overrides: list[str], defconfig: Path | None = None) -> DomainConfig:
    """What a file describes; with `defconfig` `file` is one of the overrides, if anything. Raises ControlError with the place of
    what is wrong.
    """
    if defconfig is not None:
        file, overrides = defconfig, [*([str(file)] if file is not None else []), *overrides]
    if file is None:
        raise ControlError(
            Exit.USAGE, "name a FILE, or /dev/null and each KEY=VALUE; see 'xenctl create --help'"
        )
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
