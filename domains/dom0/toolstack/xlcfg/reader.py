"""The value of one key of xl.cfg(5) turned into a typed one; every refusal names the key and stands at its place."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

from domains.control.cpus import mask_of
from domains.control.description import (
    MAX_DEVICES,
    MAX_NUMBER,
    MAX_VCPUS,
    PYTHON_PREFIX,
    Action,
    Disk,
    GuestType,
    Vif,
    bad_name,
)
from domains.dom0.toolstack.xlcfg.bootloader import BOOTLOADERS, PV_GRUB_32, PV_GRUB_64
from domains.dom0.toolstack.xlcfg.disk import image_path, parse_disk
from domains.dom0.toolstack.xlcfg.disk_syntax import EMPTY
from domains.dom0.toolstack.xlcfg.syntax import Atom, ConfigError, ListValue, Position, Value, all_of
from domains.dom0.toolstack.xlcfg.vif import parse_vif

NUMBER: Final = re.compile(r"\s*([+-]?)(0[xX])?([0-9a-fA-F]+)")
"""What strtol takes with base 0."""

T = TypeVar("T")


class Reader:
    """Turns the value of one key into a typed one; every refusal names the key and stands at its position."""

    def __init__(self, key: str, value: Value, folder: Path, *, adds: bool = False) -> None:
        """`folder`: what relative paths are relative to; `adds`: the value was written with `+=`."""
        self._key = key
        self._value = value
        self._folder = folder
        self._adds = adds
        self.notes: list[tuple[Position, str]] = []
        """What its owner should know of a value that was read, each in one line."""

    def text(self) -> str:
        """A string without NUL."""
        if not isinstance(self._value, Atom):
            raise self.refused("is a string, not a list")
        if "\0" in self._value.text:
            raise self.refused("contains a NUL character")
        return self._value.text

    def name(self) -> str:
        """A domain's name."""
        name = self.text()
        if (why := bad_name(name)) is not None:
            raise self.refused(why)
        return name

    def number(self, minimum: int = 0, maximum: int = MAX_NUMBER) -> int:
        """A number within these bounds, both included: decimal, octal after 0, hexadecimal after 0x."""
        text = self.text()
        if self._adds:
            raise self.refused("is a number, and += is not for numbers")
        number = strtol(text)
        if number is None:
            raise self.refused(f"is a number, not '{text}'")
        if not minimum <= number <= maximum:
            raise self.refused(f"must lie between {minimum} and {maximum}, not at {number}")
        return number

    def boolean(self) -> bool:
        """A number, as xl has it: anything but 0 is true."""
        return self.number() != 0

    def path(self) -> str:
        """A file's absolute path."""
        text = self.text()
        if not text:
            raise self.refused("is empty")
        return str(self._folder / self._expanded(text))

    def kernel(self) -> str:
        """A file's absolute path, or `python:…:Class` with the file's absolute path if it names one."""
        text = self.text()
        if not text.startswith(PYTHON_PREFIX):
            return self.path()
        where, colon, name = text.removeprefix(PYTHON_PREFIX).rpartition(":")
        if not colon or not where or not name.isidentifier():
            raise self.refused("must be python:package.module:Class or python:./file.py:Class")
        if where.endswith(".py"):
            return f"{PYTHON_PREFIX}{os.path.realpath(self._folder / self._expanded(where))}:{name}"
        if not all(part.isidentifier() for part in where.split(".")):
            raise self.refused(f"'{where}' is neither a module nor a .py file")
        return text

    def _expanded(self, text: str) -> Path:
        """A path with a home folder in the place of `~` or `~user`."""
        try:
            return Path(text).expanduser()
        except RuntimeError:
            raise self.refused(f"'{text}' lies in the home folder of a user who is not known") from None

    def bootloader(self) -> str:
        """`pygrub` or `pvgrub`, by a path too: which program of that name it is does not matter."""
        found = BOOTLOADERS.get(self.text().rpartition("/")[2])
        if found is None:
            raise self.refused(f"'{self.text()}' is not known; there are pygrub and pvgrub")
        return found

    def firmware(self) -> str:
        """PV GRUB of a width."""
        return {"pvgrub32": PV_GRUB_32}.get(self.must_be("pvgrub64", "pvgrub32"), PV_GRUB_64)

    def action(self) -> Action:
        """What follows an event."""
        text = self.text()
        try:
            return Action(text)
        except ValueError:
            raise self.refused(f"is one of {', '.join(Action)}, not '{text}'") from None

    def uuid(self) -> UUID:
        """A UUID."""
        text = self.text()
        try:
            return UUID(text)
        except ValueError:
            raise self.refused(f"'{text}' is no UUID") from None

    def texts(self) -> tuple[Atom, ...]:
        """The strings of a list."""
        if isinstance(self._value, Atom):
            raise self.refused("is a list: write [ '…' ]")
        for item in self._value.items:
            if isinstance(item, ListValue):
                raise ConfigError(item.position, f"{self._key} is a list of strings, not of lists")
        return tuple(item for item in self._value.items if isinstance(item, Atom))

    def affinities(self) -> tuple[str, ...]:
        """The CPUs of each vCPU: a list has one entry a vCPU, and one string stands for all (xl's parse_vcpu_affinity)."""
        if isinstance(self._value, Atom):
            return (self._cpus(self._value),) * MAX_VCPUS
        return tuple(self._cpus(atom) for atom in self.texts()[:MAX_VCPUS])

    def _cpus(self, atom: Atom) -> str:
        try:
            mask_of(atom.text)
        except ValueError as error:
            raise ConfigError(atom.position, f"{self._key}: {error}") from None
        return atom.text

    def disks(self) -> tuple[Disk, ...]:
        """A list of disk specifications. A CD-ROM drive with nothing in it is left out, for nothing can be put in later."""
        disks = self._parsed(parse_disk, MAX_DEVICES)
        seen: set[int] = set()
        for atom, disk in disks:
            if disk.devid in seen:
                raise ConfigError(atom.position, f"disk: vdev '{disk.vdev}' is used twice")
            seen.add(disk.devid)
            if disk.format == EMPTY:
                self.notes.append(
                    (atom.position, f"disk: the CD-ROM drive {disk.vdev} is empty, and left out")
                )
        return tuple(
            disk.replaced(target=image_path(disk.target, self._folder))
            for _, disk in disks
            if disk.format != EMPTY
        )

    def vifs(self) -> tuple[Vif, ...]:
        """A list of network interface specifications."""
        return tuple(vif for _, vif in self._parsed(parse_vif, MAX_DEVICES))

    def _parsed(self, parse: Callable[[str], T], most: int) -> list[tuple[Atom, T]]:
        """Each text of a list, and what it says. Raises ConfigError with all that are wrong."""
        found, mistakes = [], []
        atoms = self.texts()
        if len(atoms) > most:
            raise self.refused(f"has more than {most} entries")
        for atom in atoms:
            try:
                found.append((atom, parse(atom.text)))
            except ValueError as error:
                mistakes.append(ConfigError(atom.position, f"{self._key}: {error}"))
        if mistakes:
            raise all_of(mistakes)
        return found

    def guest_type(self) -> GuestType:
        """How the domain is virtualized."""
        return GuestType(self.must_be(*(kind.value for kind in GuestType)))

    def must_be(self, *allowed: str) -> str:
        """One of the texts that this toolstack acts upon."""
        text = self.text()
        if text not in allowed:
            raise self.refused(f"is {' or '.join(map(repr, allowed))}, not '{text}'")
        return text

    def builder(self) -> str:
        """`generic`; xl refuses xm's `linux` (tools/xl/xl_parse.c)."""
        text = self.text()
        if text == "linux":
            raise self.refused("'linux' was xm's, and xl refuses it; leave it out, a domain is PV without it")
        return self.must_be("generic")

    def refused(self, reason: str) -> ConfigError:
        """The error that says so of this key, at its value's place."""
        return ConfigError(self._value.position, f"{self._key} {reason}")


def strtol(text: str) -> int | None:
    """A number as C's strtol reads it with base 0: decimal, octal after 0, hexadecimal after 0x; None if it is none."""
    found = NUMBER.fullmatch(text)
    if found is None:
        return None
    sign, hexadecimal, digits = found.groups()
    try:
        number = int(digits, 16 if hexadecimal else 8 if digits[0] == "0" else 10)
    except ValueError:  # other digits than its base has, or thousands of them
        return None
    return -number if sign == "-" else number
