"""The two sides: a machine of ours and Xen in QEMU, with the same guests on both."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.benchmarks.machine import Machine
from scripts.benchmarks.peer.images import Images, make_images
from scripts.benchmarks.peer.qemu import Peer

XEN: Final = "Xen in QEMU, TCG"
FEW: Final = 3
"""Rounds of what takes many seconds."""


@dataclass(frozen=True)
class Sides:
    """Both, and the folder with the guests' files on our side; Dom0 has them in /guests."""

    machine: Machine
    peer: Peer
    folder: Path

    def describe(self, name: str, text: str) -> tuple[str, str]:
        """The same description as a file for us and one for Xen; where each is. `{guests}` stands for the guests' folder."""
        ours = self.folder / f"{name}.cfg"
        ours.write_text(text.replace("{guests}", str(self.folder)))
        theirs = text.replace("{guests}", "/guests").replace("\n", "\\n")
        self.peer.run(f"printf '%b' {shlex.quote(theirs)} > /tmp/{name}.cfg")
        return str(ours), f"/tmp/{name}.cfg"


@contextmanager
def images(guests: dict[str, Path]) -> Iterator[tuple[Path, Images]]:
    """A folder with these guests' files under their names, and what QEMU boots with the same files inside."""
    with tempfile.TemporaryDirectory(prefix="xp-") as name:
        folder = Path(name) / "guests"
        folder.mkdir()
        for file, source in guests.items():
            (folder / file).write_bytes(source.read_bytes())
        yield folder, make_images(Path(name), {file: (folder / file).read_bytes() for file in guests})


@contextmanager
def both(guests: dict[str, Path], disk: Path | None = None) -> Iterator[Sides]:
    """A machine of ours beside Xen in QEMU; `disk` is Dom0's /dev/vda."""
    with images(guests) as (folder, booted), Machine() as machine, Peer(booted, disk) as peer:
        yield Sides(machine, peer, folder)
