"""A planned domain in a form that any host can use, and back: files are named by what is in them.

    settings   kernel = "/home/me/vmlinuz"   ─►  kernel = "@9f86d0…@/image"   ─►  kernel = "/var/store/9f86d0…/image"

What is only read (kernels, ramdisks, a Python guest's file, disks without write access, what images are copies of) is sent to
hosts that do not have it. A disk that is written and is not made by the topology must be there at the same path on each host,
as shared storage is. Images that the topology makes are made on the host where the domain begins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Final

from pydantic import BaseModel, ConfigDict

from domains.control.description import PYTHON_PREFIX
from domains.xenctl.fleet.file import MADE
from domains.xenctl.fleet.store import stored_as
from domains.xenctl.topology.expand import Attached, Image, Plan, Planned, disk_spec
from domains.xenctl.topology.model import Wait

READ: Final = 1 << 20


class MadeImage(BaseModel):
    """As expand.Image."""

    model_config = ConfigDict(frozen=True)

    path: str
    size: int | None
    copy_of: str | None
    filesystem: str | None
    kept: bool


class Portable(BaseModel):
    """A domain for any host. `files`: the hash of each that it reads, and what it was called; `present`: paths that
    must be there; `keeps`: disks that it writes and that are made on its host alone.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    of: str
    settings: dict[str, str | int | list[str | int]]
    wait: Wait
    memory: int
    images: list[MadeImage]
    files: dict[str, str]
    present: list[str]
    keeps: list[str]

    @property
    def is_python(self) -> bool:
        """Whether it is a Python guest, which cannot move while it runs."""
        return str(self.settings.get("kernel", "")).startswith(PYTHON_PREFIX)

    @property
    def fingerprint(self) -> str:
        """The same on all hosts, and another one for everything that the domain is made from."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


@dataclass(frozen=True)
class PlannedHere(Planned):
    """A domain on one host. Paths differ from host to host, but not its fingerprint: after a move it is the same domain."""

    everywhere: str = ""

    @property
    def fingerprint(self) -> str:
        """As Portable's."""
        return self.everywhere


class Files:
    """The files that domains read, by their hashes; each is read once."""

    def __init__(self, folder: FilePath) -> None:
        """`folder`: where relative paths start."""
        self.paths: dict[str, FilePath] = {}
        """By hash."""
        self._folder = folder
        self._hashes: dict[FilePath, str] = {}

    def token(self, file: str | FilePath, used: dict[str, str]) -> str:
        """What stands for a file, noted in `used` with its hash. Raises OSError."""
        path = self._folder / FilePath(file).expanduser()
        digest = self._hashes.get(path)
        if digest is None:
            digest = self._hashes[path] = hash_of(path)
            self.paths[digest] = path
        used[digest] = path.name
        return f"@{digest}@/{stored_as(path.name)}"


def hash_of(path: FilePath) -> str:
    """SHA-256 of a file's content. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ):
            digest.update(piece)
    return digest.hexdigest()


def portable(planned: Planned, files: Files) -> Portable:
    """A planned domain for any host. Raises OSError if one of its files cannot be read."""
    used: dict[str, str] = {}
    present: list[str] = []
    settings: dict[str, str | int | list[str | int]] = {
        key: value if isinstance(value, str | int) else list(value) for key, value in planned.settings.items()
    }
    if "ramdisk" in settings:
        settings["ramdisk"] = files.token(str(settings["ramdisk"]), used)
    if "kernel" in settings:
        settings["kernel"] = portable_kernel(str(settings["kernel"]), files, used)
    made = {image.path for image in planned.images}
    if planned.disks:
        disks = [portable_disk(disk, made, files, used, present) for disk in planned.disks]
        own = settings["disk"]
        assert isinstance(own, list)
        settings["disk"] = [*disks, *own[len(disks) :]]
    images = [
        MadeImage(
            path=str(image.path),
            size=image.size,
            copy_of=None if image.copy_of is None else files.token(image.copy_of, used),
            filesystem=image.filesystem,
            kept=image.kept,
        )
        for image in planned.images
    ]
    return Portable(
        name=planned.name,
        of=planned.of,
        settings=settings,
        wait=planned.wait,
        memory=planned.memory,
        images=images,
        files=used,
        present=present,
        keeps=[disk.target.name for disk in planned.disks if disk.writable and disk.target in made],
    )


def portable_kernel(kernel: str, files: Files, used: dict[str, str]) -> str:
    """A kernel's file, or a Python guest's; a class of a module is on each host as it is."""
    if not kernel.startswith(PYTHON_PREFIX):
        return files.token(kernel, used)
    module, colon, name = kernel.removeprefix(PYTHON_PREFIX).rpartition(":")
    return f"{PYTHON_PREFIX}{files.token(module, used)}{colon}{name}" if module.endswith(".py") else kernel


def portable_disk(
    disk: Attached, made: set[FilePath], files: Files, used: dict[str, str], present: list[str]
) -> str:
    """As in xl.cfg."""
    if disk.target in made:
        return disk_spec(disk)
    if disk.writable or not disk.target.is_file():
        present.append(str(disk.target))
        return disk_spec(disk)
    return disk_spec(replace(disk, target=FilePath(files.token(disk.target, used))))


# --- on the host -------------------------------------------------------------------------------------


class Missing(Exception):
    """What a domain needs is not on this host. `str()` is one line."""


def planned_here(domain: Portable, stored: Mapping[str, FilePath], made: FilePath) -> Plan:
    """The domain as it is to be on this host, alone in a plan. `stored`: the folder of each hash; `made`: that of made images.
    Raises Missing.
    """
    for digest, name in domain.files.items():
        if digest not in stored:
            raise Missing(f"image {name} is not on this host")
    for path in domain.present:
        if not FilePath(path).exists():
            raise Missing(
                f"disk {path} is not on this host, and a disk that is written is not sent: put it on shared storage"
            )

    def here(text: str) -> str:
        for digest, folder in stored.items():
            text = text.replace(f"@{digest}@", str(folder))
        return text.replace(f"target={MADE}/", f"target={made}/")

    def value_here(value: str | int | Sequence[str | int]) -> str | int | list[str | int]:
        if isinstance(value, int):
            return value
        return (
            here(value) if isinstance(value, str) else [v if isinstance(v, int) else here(v) for v in value]
        )

    images = tuple(image_here(image, here, made) for image in domain.images)
    planned = PlannedHere(
        name=domain.name,
        of=domain.of,
        settings={key: value_here(value) for key, value in domain.settings.items()},
        origins=(),
        after=(),
        wait=domain.wait,
        memory=domain.memory,
        plugs=(),
        disks=(),
        images=images,
        everywhere=domain.fingerprint,
    )
    return Plan({domain.name: planned})


def image_here(image: MadeImage, here: Callable[[str], str], made: FilePath) -> Image:
    """An image as it is to be made on this host."""
    path = FilePath(image.path)
    return Image(
        made / path.relative_to(MADE) if path.is_relative_to(MADE) else path,
        image.size,
        None if image.copy_of is None else FilePath(here(image.copy_of)),
        image.filesystem,
        image.kept,
    )
