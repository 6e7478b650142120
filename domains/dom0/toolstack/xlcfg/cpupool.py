"""Descriptions of CPU pools, xlcpupool.cfg(5): `name`, `sched`, `cpus` or `nodes`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from domains.control.cpus import MAX_CPUS, mask_of
from domains.control.description import MAX_NUMBER, bad_name
from domains.control.sched_operations import CpupoolCreate
from domains.dom0.toolstack.xlcfg.syntax import (
    COMMAND_LINE,
    Atom,
    ConfigError,
    ListValue,
    Position,
    Setting,
    Value,
    parse,
    parse_override,
)

KEYS: Final = ("name", "sched", "cpus", "nodes")


def read_pool(text: str, path: Path | None, overrides: Sequence[str], *, dry_run: bool) -> CpupoolCreate:
    """The pool that a text and `KEY=VALUE` words describe. Without `name` it has the file's. Raises ConfigError."""
    start = Position(str(path) if path is not None else COMMAND_LINE, 1, 1)
    settings = [*parse(text, start.file), *(s for word in overrides for s in parse_override(word))]
    given: dict[str, Setting] = {}
    for setting in settings:
        if setting.key not in KEYS:
            raise ConfigError(
                setting.position, f"unknown key '{setting.key}'; a CPU pool has {', '.join(KEYS)}"
            )
        if setting.adds:
            raise ConfigError(setting.position, "+= is not for CPU pools")
        given[setting.key] = setting._replace(adds=False)
    name = text_of(given["name"]) if "name" in given else path.name if path is not None else None
    if name is None:
        raise ConfigError(start, "'name' is missing; add name=web")
    if (why := bad_name(name)) is not None:
        raise ConfigError(given["name"].position if "name" in given else start, f"name {why}")
    return CpupoolCreate(
        name=name,
        scheduler=text_of(given["sched"]) if "sched" in given else None,
        cpus=cpus_of(given["cpus"].value) if "cpus" in given else None,
        nodes=tuple(map(number_of, atoms_of(given["nodes"].value))) if "nodes" in given else None,
        dry_run=dry_run,
    )


def text_of(setting: Setting) -> str:
    """A single text. Raises ConfigError."""
    if not isinstance(setting.value, Atom):
        raise ConfigError(setting.position, f"{setting.key} is a string, not a list")
    return setting.value.text


def atoms_of(value: Value) -> list[Atom]:
    """The entries of a list, or a single value. Raises ConfigError for a list in a list."""
    if isinstance(value, Atom):
        return [value]
    for item in value.items:
        if isinstance(item, ListValue):
            raise ConfigError(item.position, "a list of numbers has no lists in it")
    return [item for item in value.items if isinstance(item, Atom)]


def cpus_of(value: Value) -> str:
    """One string of ranges, or a list of single CPUs. Raises ConfigError."""
    if isinstance(value, ListValue):
        numbers = [(atom, number_of(atom)) for atom in atoms_of(value)]
        for atom, number in numbers:
            if number >= MAX_CPUS:
                raise ConfigError(atom.position, f"there is no CPU {number}")
        return ",".join(str(number) for _, number in numbers)
    try:
        mask_of(value.text)
    except ValueError as error:
        raise ConfigError(value.position, f"cpus: {error}") from None
    return value.text


def number_of(atom: Atom) -> int:
    """A decimal number. Raises ConfigError."""
    text = atom.text
    if not (text.isascii() and text.isdecimal() and len(text) < 11 and int(text) <= MAX_NUMBER):
        raise ConfigError(atom.position, f"'{text}' is no number")
    return int(text)
