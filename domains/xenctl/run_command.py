"""xenctl run: one guest on a machine of its own, from its first instruction to its end, for tests and CI.

The guest's console goes to standard output as it comes. What becomes of the guest is the exit code:

    0   it powered off, or printed what was expected
    1   it could not be made, ended in another way, or without printing what was expected
    4   it took too long
    5   it crashed: what the hypervisor has logged of it goes to standard error

However the command ends, by a signal too, nothing of the machine is left.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from domains.control.description import DomainConfig
from domains.control.protocol import ControlError, Exit
from domains.xenctl.guest_run import GuestRun, Wanted
from domains.xenctl.options import Json
from domains.xenctl.output import print_json, printable
from hypervisor.machine.config import MACHINE_OVERHEAD

NAME: Final = "guest"
"""The domain's name in its machine."""
DEFAULT_MEMORY: Final = 128
ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)


def run(
    kernel: Annotated[
        str, typer.Argument(help="An ELF file, a bzImage, or python:module:Class.", metavar="KERNEL")
    ],
    cmdline: Annotated[str, typer.Option(help="The guest's command line.")] = "",
    ramdisk: Annotated[Path | None, typer.Option(help="Its initial ramdisk.")] = None,
    kind: Annotated[str, typer.Option("--type", help="pv or pvh, as in xl.cfg.")] = "pv",
    hap: Annotated[int, typer.Option(min=0, max=1, help="Of a pvh guest; 0: shadow paging.")] = 1,
    memory: Annotated[int, typer.Option(min=1, max=60 * 1024, help="Its memory in MiB.")] = DEFAULT_MEMORY,
    disk: Annotated[list[str] | None, typer.Option(help="A disk, as in xl.cfg; repeatable.")] = None,
    expect: Annotated[str, typer.Option(help="End the run when this text is on the console.")] = "",
    timeout: Annotated[float, typer.Option(min=0, help="Seconds the run may take; 0: any time.")] = 0.0,
    restart: Annotated[bool, typer.Option("--restart", help="Start it again when it reboots.")] = False,
    json: Json = False,
) -> None:
    """Run one guest to its end on a machine of its own, and show its console."""
    started = time.monotonic()
    settings: dict[str, Any] = {
        "name": NAME,
        "kernel": kernel,
        "type": kind,
        "hap": hap,
        "memory": memory,
        "cmdline": cmdline,
    }
    settings |= {"disk": disk or [], "on_reboot": "destroy"}
    if ramdisk is not None:
        settings["ramdisk"] = str(ramdisk)
    wanted = Wanted(expect.encode(errors="surrogateescape"), restart, started + timeout if timeout else None)
    follow(checked(settings), wanted, json=json)


def follow(config: DomainConfig, wanted: Wanted, *, json: bool) -> None:
    """Run the guest on a machine that is just large enough for it, and report. Raises ControlError unless it ended as
    wanted.
    """
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, leave)
    started = time.monotonic()
    guest = GuestRun(config, wanted, collect=json)
    try:
        guest.run(config.memory + config.shadow_mib + MACHINE_OVERHEAD)
        error = None
    except ControlError as failure:
        error = failure
    if json:
        print_json(guest.about(error) | {"seconds": round(time.monotonic() - started, 3)})
    else:
        report(guest.log)
    if error is not None:
        raise error


def checked(settings: dict[str, Any]) -> DomainConfig:
    """The description of the guest, free of mistakes. Raises ControlError."""
    from domains.dom0.toolstack.xlcfg.load import config_of
    from domains.dom0.toolstack.xlcfg.syntax import ConfigError

    try:
        str(settings).encode()
        return config_of(settings, "command line", Path.cwd())
    except UnicodeEncodeError:
        raise ControlError(Exit.USAGE, "arguments must be UTF-8") from None
    except ConfigError as error:
        raise ControlError(Exit.USAGE, "\n".join(one.message for one in error.each)) from None


def report(log: list[str]) -> None:
    """What the hypervisor says of a crash."""
    for line in log:
        print(printable(line), file=sys.stderr)


def leave(number: int, _frame: object) -> NoReturn:
    """A signal that ends the command: by way of everything that is to be taken away."""
    for other in ENDING_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


def register(app: typer.Typer) -> None:
    """Adds this command to xenctl."""
    app.command()(run)
