"""Two machines and a small guest that moves between them, for tests of migration."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from domains.control.address import MachineAddress
from domains.control.client import ControlClient
from domains.control.migration_operations import Migrate, Migrated, Migrations
from domains.control.operations import XenstoreLs
from domains.control.protocol import ControlError
from domains.xenctl.folder import folder_of, supervisor_pid
from tests.guests.compiled import HERE, compile_guest
from tests.machines import Machine, pids_of, wait_until

NAME = "wanderer"


def wanderer_image(folder: Path) -> Path:
    """The guest of wanderer.c."""
    image = folder / "wanderer"
    return image if image.exists() else compile_guest(HERE / "wanderer.c", image)


def create(machine: Machine, folder: Path, extra: str = "", *options: str) -> None:
    """Make one, and wait until it works."""
    text = f'name = "{NAME}"\nkernel = "{wanderer_image(folder)}"\nmemory = 8\n{extra}\n'
    done = machine.create(folder, text, *options)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: ticks(machine), 30, "its first tick")


def data(machine: Machine, node: str) -> int | None:
    """A number that the guest has told; None: there is none, or no such guest."""
    try:
        domid = machine.domains()[NAME]["domid"]
        (found,) = machine.ask(XenstoreLs(f"/local/domain/{domid}/data/{node}"))
        return int(found["value"])
    except (KeyError, ControlError, ValueError):
        return None


def ticks(machine: Machine) -> int | None:
    return data(machine, "ticks")


def works_on(machine: Machine, after: int | None) -> None:
    """It goes on from where it was, and nothing in its memory is wrong."""
    wait_until(lambda: (ticks(machine) or 0) > (after or 0), 30, "its next tick")
    assert data(machine, "wrong") is None


def is_running(machine: Machine, name: str = NAME) -> bool:
    """Whether a domain of this name runs there, or could."""
    found = machine.domains().get(name)
    return found is not None and found["shutdown"] is None and "p" not in found["state"]


def migrate(source: Machine, target: Machine | str, *options: str) -> subprocess.CompletedProcess[str]:
    where = target if isinstance(target, str) else target.name
    return source.xenctl("migrate", NAME, where, *options, timeout=120)


def send(source: Machine, folder: Path) -> Migrated:
    """Move it to whoever is in this folder. Raises ControlError."""
    with ControlClient(source_address(source), timeout=60) as client:
        request = client.post(Migrate(NAME, folder=str(folder)))
        while True:
            reply = client.receive(120)
            assert reply is not None, "no answer"
            result = reply.result()
            if reply.id == request and not reply.more:
                assert isinstance(result, Migrated)
                return result


def source_address(source: Machine) -> MachineAddress:
    return MachineAddress.in_folder(source.folder)


def under_way(machine: Machine) -> list[dict[str, Any]]:
    """Its migrations that have not ended."""
    found: list[dict[str, Any]] = machine.ask(Migrations())
    return found


def kill(machine: Machine) -> None:
    """End a machine as the host's power does: nothing of it is told anything."""
    before = pids_of(machine.supervisor)
    os.kill(machine.supervisor, signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before), 20, "the end of a machine")


def start_again(machine: Machine, *options: str) -> None:
    """Start a machine under the name of one that was killed."""
    done = machine.xenctl("start", "--memory", "512", *options)
    assert done.returncode == 0, done.stderr
    pid = supervisor_pid(folder_of(machine.name))
    assert pid is not None
    machine.supervisor = pid
    machine.free_frames = int(machine.info()["free_frames"])
    machine.pids = pids_of(pid)
