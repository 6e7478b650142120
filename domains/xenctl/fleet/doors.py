"""How the machines of a fleet send each other domains while they run (docs/migration.md): where each listens, its key, and
whose it knows.

    <machine folder>/fleet/xenoscope/authorized_keys     the keys of the fleet's other machines, as the head tells them

The agent names that folder as XDG_CONFIG_HOME to its machine, so a fleet's machines believe each other and nobody else, and the
user's own files are left alone. Machines of one computer and one network reach each other by their folders and need none of it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from domains.carrier.keys import KeyProblem, pair_of
from domains.control.operations import Info
from domains.control.protocol import ControlError, Exit
from domains.xenctl import machine as machines
from domains.xenctl.folder import folder_of, private_files
from domains.xenctl.private_machine import PrivateMachine


def folder_of_doors(machine: str) -> Path:
    """What stands for the user's own configuration. It goes with the machine."""
    return folder_of(machine) / "fleet"


def public_key(machine: str) -> str:
    """A machine's public key, which is made if there is none yet. Raises ControlError."""
    try:
        return pair_of(machine).public.hex()
    except KeyProblem as problem:
        raise ControlError(Exit.FAILURE, str(problem)) from None


def listening_at(address: str) -> str:
    """Any free port of an address."""
    return f"[{address}]:0" if ":" in address else f"{address}:0"


def described(machine: PrivateMachine, key: str) -> dict[str, Any]:
    """What the head is told, so that it can name this machine to others. Raises ControlError."""
    with machines.connect(machine.name) as client:
        listens = client.call(Info()).listens
    return {"folder": str(machine.folder), "computer": computer(), "listens": listens, "key": key}


def computer() -> str:
    """What is the same for processes of one user that reach each other's folders and have one network."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.getuid()} {os.readlink('/proc/self/ns/net')}"


def forget(machine: str) -> None:
    """Take away what a machine that is gone for good has kept for migrations: its key, what it had decided, copies of images."""
    state = os.environ.get("XDG_STATE_HOME", "") or os.path.expanduser("~/.local/state")
    for kept in ("migrations", "images"):
        shutil.rmtree(Path(state) / "xenoscope" / kept / machine, ignore_errors=True)
    (Path(state) / "xenoscope" / "keys" / machine).unlink(missing_ok=True)


def write_authorized_keys(machine: str, keys: Sequence[str]) -> None:
    """Machines with these keys, and no others, may send domains here. Raises OSError."""
    folder = folder_of_doors(machine) / "xenoscope"
    with private_files():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = folder / ".authorized_keys.new"
        unfinished.write_text("".join(f"{key}\n" for key in keys))
        unfinished.rename(folder / "authorized_keys")
