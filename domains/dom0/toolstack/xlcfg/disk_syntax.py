"""The syntax of disk specifications: text in, what each parameter says out, exactly as libxlutil has it.

Owns the grammar of Xen's libxlu_disk (tools/libs/util/libxlu_disk_l.l and libxlu_disk.c, release 4.17). It is a list of rules:
at each place the rule that matches most text is performed, the first of those that match the same. Rules that end with
the rest of the line win in this way over all that stop at a comma, but take only their head away. What follows from it and
surprises: `disk.img,hda,w` has the format `hda`; blanks before a parameter are left out, blanks behind it are part of it;
`target=` takes the rest, commas and all; in `x=yes` the unknown parameter is `x=y`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

FORMATS: Final = ("raw", "qcow", "qcow2", "vhd", "qed", "empty")
EMPTY: Final = "empty"
"""The format of a CD-ROM drive with nothing in it."""
ACCESS: Final = {"r": False, "ro": False, "rw": True, "w": True, "": True}
BACKEND_TYPES: Final = ("phy", "tap", "qdisk", "standalone")
SPECIFICATIONS: Final = ("xen", "virtio")


class DiskSpec:
    """What a specification says. `format` is None until one is given; texts are None until they are, and may be empty."""

    def __init__(self) -> None:
        self.target: str | None = None
        self.format: str | None = None
        self.vdev: str | None = None
        self.writable = True
        self.cdrom = False
        self.backend: str | None = None
        self.backendtype: str | None = None
        self.specification: str | None = None
        self.script: str | None = None
        self.direct_io_safe = False
        self.discard: bool | None = None
        self.colo: bool | None = None
        self.colo_options: dict[str, str] = {}


def parse_spec(text: str) -> DiskSpec:
    """What `text` says. Raises ValueError with libxlutil's reasons and what to do, in one line."""
    parser = Parser(text.partition("\0")[0])
    parser.run()
    return parser.spec


class Parser:
    """One specification, read from left to right."""

    def __init__(self, text: str) -> None:
        self.spec = DiskSpec()
        self._text = text
        self._mistakes: list[str] = []
        self._old_prefix = False
        self._access_set = False
        self._ended = False

    def run(self) -> None:
        """Performs every rule; then what concerns the whole (xlu_disk_parse). Raises ValueError."""
        at = 0
        while at < len(self._text) and not self._ended:
            at += self._step(at)
        if not self._mistakes:
            self._finish()
        if self._mistakes:
            raise ValueError("; ".join(self._mistakes))

    def _step(self, at: int) -> int:
        """Performs the rule that matches most from `at` on, and says how much it takes away."""
        best, longest = None, 0
        for rule in RULES:
            match = rule.pattern.match(self._text, at)
            if match is not None and match.end() - at > longest:
                best, longest = (rule, match), match.end() - at
        if best is None:
            bad = self._text[at:].partition("\n")[0]
            if at + 1 < len(self._text):  # a last character alone is never looked at
                self.refuse("bad disk syntax", bad)
            self._ended = True
            return 0
        rule, match = best
        rule.perform(self, match["it"])
        return len(match["it"])

    def _finish(self) -> None:
        spec = self.spec
        spec.format = spec.format or "raw"
        if spec.cdrom:
            spec.writable = False
            if not spec.target:
                spec.format = EMPTY
        if spec.vdev is None:
            self.refuse("no vdev specified", None, "name one, such as xvda")
        elif spec.target is None and not spec.cdrom:
            self.refuse("no target specified (and device not removable)", None, "name an image or a device")

    def refuse(self, message: str, near: str | None, hint: str = "") -> None:
        """Enters a mistake: what libxlutil says of it, near which text, and what to do."""
        place = "" if near is None else f": near `{near}'"
        self._mistakes.append(f"{message}{place}" + (f" ({hint})" if hint else ""))

    # --- what the rules do ------------------------------------------------------------

    def save(self, name: str, value: str) -> None:
        """Enters a text; one that is not empty cannot be given again (savestring)."""
        if getattr(self.spec, name):
            self.refuse(f"{name} respecified", value, "give it once")
        else:
            setattr(self.spec, name, value)

    def choose(self, name: str, value: str, choices: tuple[str, ...]) -> None:
        """Enters one of several words, which cannot be given again as another (DSET)."""
        if value not in choices:
            self.refuse(f"unknown value for {name}", value, f"it is {', '.join(choices)}")
        elif getattr(self.spec, name) not in (None, value):
            self.refuse(f"{name.removesuffix('type')} respecified", value, "give it once")
        else:
            setattr(self.spec, name, value)

    def set_format(self, value: str) -> None:
        """Of the image; nothing is raw."""
        if not value and self.spec.format not in (None, "raw"):
            self.refuse("format respecified", value, "give it once")
        else:
            self.choose("format", value or "raw", FORMATS)

    def set_access(self, value: str) -> None:
        """Whether the guest may write."""
        if value not in ACCESS:
            self.refuse("unknown value for access", value, "it is r, ro, w or rw")
        else:
            self.spec.writable = ACCESS[value]

    def set_type(self, text: str) -> None:
        """`devtype=disk` or `devtype=cdrom`."""
        kind = text.removesuffix(",").removeprefix("devtype=")
        if kind not in ("disk", "cdrom"):
            self.refuse("unknown value for type", text, "it is disk or cdrom")
        else:
            self.spec.cdrom = kind == "cdrom"

    def set_colo(self, name: str, value: str) -> None:
        """A parameter of COLO's; its port is a number."""
        if name == "colo-port" and not re.match(r"\s*[+-]?0*[1-9]", value):
            self.refuse("unknown value for colo_port", value, "it is a number")
        elif name != "colo-port" and self.spec.colo_options.get(name):
            self.refuse(f"{name} respecified", value, "give it once")
        else:
            self.spec.colo_options[name] = value

    def format_prefix(self, value: str) -> None:
        """`qcow2:` before a path, as descriptions had it before `format=`."""
        self._old_prefix = True
        self.set_format(value)

    def script_prefix(self, value: str) -> None:
        """`nbd:` and others stand for a hotplug script."""
        self._old_prefix = True
        self.save("script", f"block-{value}")

    def plain_prefix(self, _value: str) -> None:
        """`phy:`, `file:`, `tap:aio:` and others say nothing that is still to be known."""
        self._old_prefix = True

    def unknown_prefix(self, value: str) -> None:
        """The text is read no further."""
        self.refuse(
            "unknown deprecated disk prefix", value, "give the path with a format, as /x.img,raw,xvda"
        )
        self._ended = True

    def unknown_parameter(self, value: str) -> None:
        """`x=y` with a name that is none."""
        self.refuse("unknown parameter", value)

    def place(self, text: str) -> None:
        """A parameter without a name is the first of target, format, vdev and access that is not there yet. An old
        prefix stands for the format. After a mistake places mean nothing.
        """
        spec, value = self.spec, text.removesuffix(",")
        if self._mistakes:
            return
        if spec.target is None:
            spec.target = value
        elif not self._old_prefix and spec.format is None:
            if spec.target or not self._vdev_and_type(value):
                self.set_format(value)
            else:
                spec.format = EMPTY
        elif spec.vdev is None:
            if not self._vdev_and_type(value):
                spec.vdev = value
        elif not self._access_set:
            self._access_set = True
            self.set_access(value)
        else:
            self.refuse("too many positional parameters", value)
            self._ended = True

    def _vdev_and_type(self, value: str) -> bool:
        """`hdc:cdrom`, the old form; whether it is that."""
        vdev, colon, kind = value.rpartition(":")
        if not colon:
            return False
        self.save("vdev", vdev)
        if kind not in ("disk", "cdrom"):
            self.refuse("unknown deprecated type", kind, "it is disk or cdrom")
        else:
            self.spec.cdrom = kind == "cdrom"
        return True


class Rule(NamedTuple):
    """Text that `pattern` matches is performed; its group `it` is what is taken away."""

    pattern: re.Pattern[str]
    perform: Callable[[Parser, str], None]


def rule(text: str, perform: Callable[[Parser, str], None], rest: str = "") -> Rule:
    """`rest` follows and counts, but is not taken away."""
    return Rule(re.compile(f"(?P<it>{text}){rest}", re.ASCII), perform)


def named(name: str, perform: Callable[[Parser, str], None]) -> Rule:
    """`name=value`, up to a comma."""
    return rule(f"{name}=[^,]*,?", lambda parser, it: perform(parser, it.partition("=")[2].removesuffix(",")))


def flag(name: str, field_name: str, value: bool) -> Rule:
    """A word that stands alone."""
    return rule(f"{name},?", lambda parser, _it: setattr(parser.spec, field_name, value))


def text_of(name: str, field_name: str) -> Rule:
    """A text that is given once."""
    return named(name, lambda parser, value: parser.save(field_name, value))


def colo(name: str) -> Rule:
    """One of COLO's."""
    return named(name, lambda parser, value: parser.set_colo(name, value))


def prefix(text: str, perform: Callable[[Parser, str], None]) -> Rule:
    """An old prefix, with the whole rest of the line behind it."""
    return rule(f"(?:{text}):", lambda parser, it: perform(parser, it.removesuffix(":")), ".*")


RULES: Final = (
    rule(r"[ \t\n]+", lambda _parser, _it: None, r"(?:[^ \t\n].*)?"),
    named("format", Parser.set_format),
    flag("cdrom", "cdrom", True),
    rule("devtype=[^,]*,?", Parser.set_type),
    named("access", Parser.set_access),
    text_of("backend", "backend"),
    named("backendtype", lambda parser, value: parser.choose("backendtype", value, BACKEND_TYPES)),
    named("specification", lambda parser, value: parser.choose("specification", value, SPECIFICATIONS)),
    text_of("vdev", "vdev"),
    text_of("script", "script"),
    flag("direct-io-safe", "direct_io_safe", True),
    flag("discard", "discard", True),
    flag("no-discard", "discard", False),
    flag("colo", "colo", True),
    flag("no-colo", "colo", False),
    *map(colo, ("colo-host", "colo-port", "colo-export", "active-disk", "hidden-disk")),
    rule("target=.*", lambda parser, it: parser.save("target", it.partition("=")[2].removesuffix(","))),
    rule("[a-z][-a-z0-9]*=[^,],?", Parser.unknown_parameter),
    prefix("raw|qcow2?|vhd", Parser.format_prefix),
    prefix("iscsi|e?nbd|drbd", Parser.script_prefix),
    prefix("tapdisk|tap2?|aio|ioemu|file|phy", Parser.plain_prefix),
    rule("[a-z][a-z0-9]*:", Parser.unknown_prefix, r"(?:[^a-z0-9].*)?"),
    rule("[^=,]*,|[^=,]+", Parser.place),
)
"""In libxlu_disk_l.l's order, which decides between rules that match the same text."""
