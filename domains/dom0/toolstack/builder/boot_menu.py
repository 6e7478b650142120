"""A boot loader's menu: which kernel a guest's own disk boots, with which RAM disk and command line.

Three kinds of files, read as Xen's pygrub reads them (tools/pygrub/src/GrubConf.py, ExtLinuxConf.py): line by line, without the
scripts in them. Submenus are flattened, the last `default` counts, and one that is saved, or not there, is the first entry.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Final, NamedTuple

MAX_ENTRIES: Final = 1000
MAX_INITRDS: Final = 32
"""RAM disks of one entry: each takes a process to be read."""


class BadMenu(ValueError):
    """The menu starts nothing; one line says why."""


class Entry:
    """One entry while it is read."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.kernel = ""
        self.args = ""
        self.initrds: list[str] = []


class Boot(NamedTuple):
    """What is to be booted: paths in the file system that the menu is in."""

    kernel: str
    initrds: list[str]
    args: str


def grub2(text: str) -> Boot:
    """Of a grub.cfg. Raises BadMenu."""
    entries: list[Entry] = []
    default, inside = "0", False
    for line in map(str.strip, text.splitlines()):
        command, _, rest = line.replace("\t", " ").partition(" ")
        if found := re.match(r"menuentry\s+(?:'([^']*)'|\"([^\"]*)\"|(\S+))", line):
            entries.append(Entry(next(filter(None, found.groups()), "")))
            inside = True
        elif line.startswith("}"):
            inside = False
        elif inside and command in ("linux", "linux16", "linuxefi"):
            set_kernel(entries[-1], rest)
        elif inside and command in ("initrd", "initrd16", "initrdefi"):
            entries[-1].initrds = rest.split()
        elif command == "set" and rest.lstrip().startswith("default="):
            default = rest.partition("=")[2].strip().strip("\"'")
        if len(entries) > MAX_ENTRIES:
            raise BadMenu(f"more than {MAX_ENTRIES} entries")
    return chosen(entries, default.rpartition(">")[2])


def grub_legacy(text: str) -> Boot:
    """Of a menu.lst or grub.conf. Raises BadMenu."""
    entries: list[Entry] = []
    default = "0"
    for line in map(str.strip, text.splitlines()):
        command, rest = split_word(line)
        if command == "title":
            entries.append(Entry(rest))
        elif command == "default":
            default = rest
        elif command == "kernel" and entries:
            set_kernel(entries[-1], rest)
        elif command == "initrd" and entries:
            entries[-1].initrds = rest.split()
        elif command == "module" and entries:  # behind a kernel that is Xen: first Linux, then its RAM disk
            read_module(entries[-1], rest)
        if len(entries) > MAX_ENTRIES:
            raise BadMenu(f"more than {MAX_ENTRIES} entries")
    return chosen(entries, default)


def read_module(entry: Entry, rest: str) -> None:
    """A multiboot module of Xen's: Linux, if it is the first, else its RAM disk."""
    if "xen" in entry.kernel:
        set_kernel(entry, rest)
    else:
        entry.initrds = rest.split()[:1]


def extlinux(text: str) -> Boot:
    """Of an extlinux.conf. Raises BadMenu."""
    entries: list[Entry] = []
    default = "0"
    for line in map(str.strip, text.splitlines()):
        command, rest = split_word(line)
        command = command.lower()
        if command == "label":
            entries.append(Entry(rest))
        elif command == "default":
            default = rest
        elif command in ("kernel", "linux") and entries:
            entries[-1].kernel = rest
        elif command == "append" and entries:
            initrds = [word[7:] for word in rest.split() if word.startswith("initrd=")]
            entries[-1].initrds += [path for words in initrds for path in words.split(",")]
            entries[-1].args = " ".join(word for word in rest.split() if not word.startswith("initrd="))
        elif command == "initrd" and entries:
            entries[-1].initrds += rest.split(",")
        if len(entries) > MAX_ENTRIES:
            raise BadMenu(f"more than {MAX_ENTRIES} entries")
    return chosen(entries, default)


def split_word(line: str) -> tuple[str, str]:
    """The first word, behind which a blank or `=` stands, and the rest."""
    found = re.match(r"([^\s=]+)(?:\s*=\s*|\s+|$)(.*)", line)
    return (found[1], found[2].strip()) if found else ("", "")


def set_kernel(entry: Entry, rest: str) -> None:
    """A kernel and its command line; quotes around words of it are the menu's."""
    try:
        words = shlex.split(rest, comments=True)
    except ValueError:
        words = rest.split()
    entry.kernel, entry.args = (words[0] if words else ""), " ".join(words[1:])


def chosen(entries: list[Entry], default: str) -> Boot:
    """The entry that `default` names by its number or title, of those that start a kernel."""
    number = int(default) if default.isascii() and default.isdecimal() and len(default) < 6 else None
    at = next((i for i, entry in enumerate(entries) if entry.title == default), number or 0)
    wanted = [*entries[at : at + 1], *entries]
    entry = next((entry for entry in wanted if entry.kernel), None)
    if entry is None:
        raise BadMenu("no entry of it starts a kernel")
    if len(entry.initrds) > MAX_INITRDS:
        raise BadMenu(f"more than {MAX_INITRDS} RAM disks")
    return Boot(plain(entry.kernel), [plain(path) for path in entry.initrds], entry.args.partition("\0")[0])


def plain(path: str) -> str:
    """A path without the device before it, as in (hd0,1)/vmlinuz."""
    return "/" + re.sub(r"^\([^)]*\)", "", path).lstrip("/")


MENUS: Final[tuple[tuple[str, Callable[[str], Boot]], ...]] = (
    *(
        (path, grub2)
        for path in ("/boot/grub/grub.cfg", "/grub/grub.cfg", "/boot/grub2/grub.cfg", "/grub2/grub.cfg")
    ),
    *(
        (path, extlinux)
        for path in (
            "/boot/isolinux/isolinux.cfg",
            "/boot/extlinux/extlinux.conf",
            "/boot/extlinux.conf",
            "/extlinux/extlinux.conf",
            "/extlinux.conf",
        )
    ),
    *(
        (path, grub_legacy)
        for path in ("/boot/grub/menu.lst", "/boot/grub/grub.conf", "/grub/menu.lst", "/grub/grub.conf")
    ),
)
"""Where a menu may be, in pygrub's order, and what reads it."""
