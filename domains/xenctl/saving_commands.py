"""Commands that write a domain into a file, and make one of it: save, restore."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated

from domains.control.description import DomainConfig
from domains.control.domain_operations import Restore, Save
from domains.control.protocol import ControlError, Exit
from domains.control.records import encode
from domains.xenctl import machine
from domains.xenctl.domain_commands import described, ensure_started, tell_of
from domains.xenctl.options import DEFAULT, Argument, Domain, Json, Machine, Option
from domains.xenctl.output import print_error, print_json
from domains.xenctl.usage import checked

NO_MONITOR = (
    "no xl process waits for the domain: Dom0 does what its description says when it ends; leave -e out"
)
NO_DISPLAY = "there is no display to view: a domain here has no device model; leave -V out"


def save(
    domain: Domain,
    file: Annotated[Path, Argument(help="Where to, on the host.", metavar="FILE")],
    config_file: Annotated[
        Path | None, Argument(help="The description that the file shall have.", metavar="[CONFIG_FILE]")
    ] = None,
    checkpoint: Annotated[bool, Option("--checkpoint", "-c", help="Let the domain go on.")] = False,
    paused: Annotated[bool, Option("--paused", "-p", help="Leave the domain there, paused.")] = False,
    timeout: Annotated[
        float,
        Option("--timeout", "-t", help="Seconds for the guest to suspend.", metavar="SECONDS", min=0.001),
    ] = 60.0,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Write a domain into a file, and end it."""
    config = _config(config_file)
    wanted = checked(lambda: Save(domain, str(file.absolute()), checkpoint, paused, config, timeout))
    with machine.connect(name) as client:
        saved = client.call(wanted, timeout=math.inf)
    if json:
        print_json({"domain": domain, "file": str(file), **encode(saved)})
    else:
        print_error(f"saved {domain} to {file}: {saved.pages} pages, {saved.size} bytes")


def restore(
    file: Annotated[
        Path,
        Argument(
            help="What save has written; or a description in place of the one in it.",
            metavar="FILE|CONFIG_FILE",
        ),
    ],
    second: Annotated[
        Path | None, Argument(help="What save has written, behind a CONFIG_FILE.", metavar="[FILE]")
    ] = None,
    paused: Annotated[bool, Option("--paused", "-p", help="Leave the domain paused.")] = False,
    unattended: Annotated[bool, Option("--unattended", "-e", help="As xl's; refused.")] = False,
    vncviewer: Annotated[
        bool, Option("--vncviewer", "-V", "--vncviewer-autopass", "-A", help="As xl's; refused.")
    ] = False,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Make a domain of what save has written; starts the machine if it does not run."""
    for refused, why in ((unattended, NO_MONITOR), (vncviewer, NO_DISPLAY)):
        if refused:
            raise ControlError(Exit.USAGE, why)
    config = _config(file) if second is not None else None
    path = str((second or file).absolute())
    wanted = checked(lambda: Restore(path, config, paused))
    try:
        os.stat(path)  # else a machine would be started for nothing
    except OSError as error:
        raise ControlError(Exit.FAILURE, f"cannot read {path}: {error.strerror}") from None
    ensure_started(name)
    with machine.connect(name) as client:
        made = client.call(wanted, timeout=math.inf)
    tell_of(made, quiet=False, json=json)


def _config(file: Path | None) -> DomainConfig | None:
    return described(file, []) if file is not None else None
