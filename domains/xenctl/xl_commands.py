"""The command under which Debian's xl and its like drive a machine (docs/xl.md)."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Final

from domains.control.protocol import ControlError, Exit
from domains.xenctl import machine
from domains.xenctl.folder import folder_of
from domains.xenctl.options import DEFAULT, Argument, Json, Machine
from domains.xenctl.output import print_json
from domains.xenctl.xl_library import PACKAGES, xl_folder, xl_library

PROGRAMS: Final = ("lib/xen-4.17/bin", "bin")
LIBRARIES: Final = "lib/x86_64-linux-gnu"


def xl_env(
    command: Annotated[list[str], Argument(help="A program and its arguments; -- before them.")] = [],  # noqa: B006 - typer's
    name: Machine = DEFAULT,
    json: Json = False,
) -> int | None:
    """Run Debian's xl, xentop, xenconsole or xenstore-… on a machine: xenctl xl-env -- xl list -v. Without a program print what
    makes a shell do so: eval "$(xenctl xl-env)".
    """
    machine.connect(name).close()
    settings = environment(folder_of(name))
    if not command:
        if json:
            print_json(settings)
        else:
            print("\n".join(f"export {key}={shlex.quote(value)}" for key, value in settings.items()))
        return None
    program = shutil.which(command[0], path=settings["PATH"])
    if program is None:
        fetch = "scripts/fetch_xl brings Debian's xl 4.17"
        raise ControlError(Exit.FAILURE, f"there is no program '{command[0]}' on the path; {fetch}")
    sys.stdout.flush()
    os.execve(program, command, {**os.environ, **settings})


def environment(folder: Path) -> dict[str, str]:
    """The variables under which a program of Xen's finds the machine of that folder."""
    packages = xl_folder() / PACKAGES
    unpacked = (packages / PROGRAMS[0] / "xl").exists()
    programs = [str(packages / part) for part in PROGRAMS] if unpacked else []
    libraries = [str(packages / LIBRARIES)] if unpacked else []
    return {
        "XENOSCOPE_FOLDER": str(folder),
        "XENSTORED_PATH": str(folder / "xenstored"),
        "LD_PRELOAD": joined([str(xl_library())], "LD_PRELOAD"),
        "LD_LIBRARY_PATH": joined(libraries, "LD_LIBRARY_PATH"),
        "PATH": joined(programs, "PATH"),
    }


def joined(parts: list[str], name: str) -> str:
    """These before what the variable has already, each once."""
    before = [part for part in os.environ.get(name, "").split(":") if part]
    return ":".join(dict.fromkeys(parts + before))
