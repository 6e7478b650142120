"""What a topology has made on a machine, noted in the machine's folder and gone with it.

    <machine folder>/topology/<name>/
        lock          held by whoever changes the topology
        made.json     whether the machine was started for it, which domains were ready or have done their work, which bridges were
                      given a VXLAN port
        *.img         disk images without a path of their own

Its domains bear a mark, `<name>:<fingerprint>`, that the toolstack keeps: a domain without it is never touched.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from domains.control.operations import Listed
from domains.control.protocol import ControlError, Exit
from domains.xenctl.topology.expand import Planned

FOLDER: Final = "topology"
NOTES: Final = "made.json"


class State:
    """One topology on one machine."""

    def __init__(self, machine_folder: Path, name: str) -> None:
        self.name = name
        self.folder = machine_folder / FOLDER / name
        self._machine_folder = machine_folder
        self._notes: dict[str, Any] = {}

    @contextmanager
    def locked(self) -> Iterator[State]:
        """Read what is noted, and keep others from changing it. Raises ControlError if somebody does already."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ControlError(Exit.FAILURE, f"cannot make {self.folder}: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.read()
            yield self
        except BlockingIOError:
            raise ControlError(
                Exit.FAILURE, f"topology '{self.name}' is being changed by another xenctl"
            ) from None
        finally:
            os.close(lock)

    def read(self) -> State:
        """Take over what is noted; nothing, if there are no notes."""
        try:
            self._notes = json.loads((self.folder / NOTES).read_text())
        except (OSError, ValueError):
            self._notes = {}
        return self

    @property
    def started_machine(self) -> bool:
        """Whether the machine was started for this topology."""
        return bool(self._notes.get("started_machine"))

    def note_machine(self) -> None:
        """Notes that `up` has started the machine, so that `down` stops it."""
        self._notes["started_machine"] = True
        self._write()

    @property
    def vxlans(self) -> set[str]:
        """The bridges that `up` has given a VXLAN port."""
        return set(self._notes.get("vxlans", ()))

    def note_vxlans(self, bridges: set[str]) -> None:
        """Notes which bridges are given one, so that `down` takes it away."""
        self._notes["vxlans"] = sorted(bridges)
        self._write()

    def note_ready(self, planned: Planned, domid: int | None) -> None:
        """The domain was ready; `domid` None: it has done its work and is gone."""
        self._notes.setdefault("ready", {})[planned.name] = [planned.fingerprint, domid]
        self._write()

    def was_ready(self, planned: Planned, domid: int | None) -> bool:
        """Whether exactly this domain was noted as ready."""
        return bool(self._notes.get("ready", {}).get(planned.name) == [planned.fingerprint, domid])

    def mark(self, planned: Planned) -> str:
        """What the toolstack is to keep with a domain."""
        return f"{self.name}:{planned.fingerprint}"

    def owns(self, about: Listed) -> bool:
        """Whether a domain, as the toolstack lists it, was made by this topology."""
        return mark_of(about).startswith(f"{self.name}:")

    def remove(self) -> None:
        """Take away the notes and the images."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # another topology is still there
            self.folder.parent.rmdir()

    def _write(self) -> None:
        unfinished = self.folder / f"{NOTES}.new"
        unfinished.write_text(json.dumps(self._notes))
        unfinished.rename(self.folder / NOTES)


def mark_of(about: Listed) -> str:
    """The mark of a domain as the toolstack lists it."""
    return (about.config.mark or "") if about.config is not None else ""
