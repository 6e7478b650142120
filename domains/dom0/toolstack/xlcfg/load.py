"""From the text of a description, and KEY=VALUE arguments that override it, to a DomainConfig."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from domains.control.description import (
    DISK_PREFIX,
    MAX_GUEST_CMDLINE,
    PYTHON_PREFIX,
    DomainConfig,
    GuestType,
    too_little_shadow,
    too_many_vcpus,
)
from domains.control.files import read_at_most
from domains.dom0.toolstack.xlcfg.bootloader import PVH_GRUB, PYGRUB, grub
from domains.dom0.toolstack.xlcfg.hvm import says_no, without_device_model
from domains.dom0.toolstack.xlcfg.reader import Reader
from domains.dom0.toolstack.xlcfg.schema import IGNORED, KEYS, OF_PVH, REFUSED, nearest
from domains.dom0.toolstack.xlcfg.syntax import (
    COMMAND_LINE,
    Atom,
    ConfigError,
    ListValue,
    Position,
    Setting,
    Value,
    all_of,
    parse_all,
    parse_override,
)

MAX_TEXT: Final = 1 << 20
"""Characters of a description."""
MAX_UNKNOWN: Final = 100
"""Keys that nobody knows; to find for each of very many which one may be meant takes minutes."""

__all__ = ["KEYS", "MAX_TEXT", "Plain", "Warn", "config_of", "load", "read_config"]

ACTIONS: Final = ("on_poweroff", "on_reboot", "on_crash", "on_watchdog", "on_soft_reset")

PLAIN: Final = (
    "ramdisk",
    "uuid",
    "shadow_memory",
    "pool",
    "cpu_weight",
    "cap",
    "period",
    "extratime",
    "max_grant_frames",
    "max_maptrack_frames",
    "max_event_channels",
)
"""Keys that are fields of DomainConfig as they are."""


Note = tuple[Position, str]
"""What is ignored, and its place."""

Warn = Callable[[str], None]
"""Told of what is ignored, in one line with its place."""

Plain = str | int
"""What a setting that was never text, or an entry of its list, may be."""


class Given(NamedTuple):
    """The last value of one key."""

    value: Any
    position: Position


def load(path: Path, overrides: Sequence[str] = (), warn: Warn = lambda _line: None) -> DomainConfig:
    """Read a file. Raises ConfigError, OSError."""
    text = read_at_most(path, MAX_TEXT, errors="replace")
    return read_config(text, str(path), path.absolute().parent, overrides, warn)


def read_config(
    text: str,
    file: str,
    folder: Path,
    overrides: Sequence[str] = (),
    warn: Warn = lambda _line: None,
) -> DomainConfig:
    """The domain that `text` describes. `file` is its name for messages; relative paths start at `folder`.

    Overrides are `KEY=VALUE`, as on xl's command line: they take the place of what the file says. `warn` is told of
    each setting that is ignored. Raises ConfigError with everything that is wrong.
    """
    start = Position(file, 1, 1)
    if len(text) > MAX_TEXT:
        raise ConfigError(start, f"longer than {MAX_TEXT} characters; this is no domain description")
    given = [setting for override in overrides for setting in parse_override(override)]
    settings, mistakes = parse_all(text, file)
    return described([*settings, *given], start, folder, warn, as_xl=True, mistakes=mistakes)


def config_of(settings: Mapping[str, Plain | Sequence[Plain]], source: str, folder: Path) -> DomainConfig:
    """The domain that settings describe which were never text; in messages each stands in a line of its own of
    `source`, from 1 on, in the order given. Raises ConfigError.
    """

    def value_at(plain: Plain | Sequence[Plain], position: Position) -> Value:
        if isinstance(plain, str | int):
            return Atom(str(plain), position)
        return ListValue(tuple(Atom(str(item), position) for item in plain), position)

    places = {key: Position(source, line, 1) for line, key in enumerate(settings, 1)}
    typed = [Setting(key, value_at(plain, places[key]), places[key]) for key, plain in settings.items()]
    return described(typed, Position(source, 1, 1), folder)


def described(
    settings: Iterable[Setting],
    start: Position,
    folder: Path,
    warn: Warn = lambda _line: None,
    *,
    as_xl: bool = False,
    mistakes: Sequence[ConfigError] = (),
) -> DomainConfig:
    """The domain that settings describe; `start` is where a missing one is told. `as_xl`: keys that nobody knows are
    ignored, as xl does, unless they stand on the command line or look like a slip of the pen; `mistakes`: what was found
    before. Raises ConfigError with everything that is wrong.
    """
    parsed, mistakes = not mistakes, list(mistakes)
    notes: list[Note] = []
    last, too_much = without_device_model(merged(settings, mistakes))
    mistakes += too_much
    given = read_each(served(last, mistakes, notes, as_xl=as_xl), folder, mistakes, notes)
    keys = {setting.key for setting in last}
    if parsed and "name" not in keys:
        mistakes.append(ConfigError(start, "'name' is missing; add name = \"web\""))
    if parsed and not keys & {"kernel", "bootloader", "firmware"}:
        example = 'kernel = "vmlinuz" or "python:module:Class", or bootloader = "pygrub"'
        mistakes.append(ConfigError(start, f"'kernel' is missing; add {example}"))
    config = None
    try:
        if not mistakes:
            given, said = with_loader(given)
            notes += said
        if {"name", "kernel"} <= given.keys():
            config = assembled(given)
    except ConfigError as error:
        mistakes += error.each
    refused = {(mistake.position.file, mistake.position.line) for mistake in mistakes}
    for position, line in sorted(notes, key=lambda note: note[0].line):
        if (position.file, position.line) not in refused:
            warn(f"{position}: {line}")
    if mistakes or config is None:
        raise all_of(mistakes)
    return config


def merged(settings: Iterable[Setting], mistakes: list[ConfigError]) -> list[Setting]:
    """One setting a key: the last one, with `+=` put after what was there."""
    last: dict[str, Setting] = {}
    for setting in settings:
        before = last.get(setting.key)
        try:
            if setting.adds and before is not None:
                setting = setting._replace(value=joined(before.value, setting))
        except ConfigError as error:
            mistakes.append(error)
            continue
        last[setting.key] = setting
    return list(last.values())


def served(
    settings: Iterable[Setting], mistakes: list[ConfigError], notes: list[Note], *, as_xl: bool
) -> list[Setting]:
    """Those that are acted on. The others are ignored, or put among the mistakes."""
    settings = list(settings)
    pvh = any(s.key == "type" and getattr(s.value, "text", "") == GuestType.PVH for s in settings)
    wanted: list[Setting] = []
    unknown = 0
    for setting in settings:
        key, at = setting.key, setting.position
        unknown += key not in KEYS and key not in IGNORED and key not in REFUSED
        if unknown > MAX_UNKNOWN:
            mistakes.append(
                ConfigError(at, f"more than {MAX_UNKNOWN} unknown keys; this is no domain description")
            )
            break
        if key in IGNORED and not (pvh and key in OF_PVH):
            notes.append((at, f"{key} is ignored: {IGNORED[key]}"))
        elif key in REFUSED and says_no(setting.value):
            notes.append((at, f"{key} is ignored: it asks for nothing"))
        elif key in REFUSED:
            mistakes.append(ConfigError(at, f"{key} is not supported: {REFUSED[key]}"))
        elif key in KEYS:
            wanted.append(setting)
        elif (meant := nearest(key)) is None and as_xl and at.file != COMMAND_LINE:
            notes.append((at, f"unknown key '{key}' is ignored, as xl does"))
        else:
            hint = f"; did you mean '{meant}'?" if meant else ""
            mistakes.append(ConfigError(at, f"unknown key '{key}'{hint}"))
    return wanted


def read_each(
    settings: Iterable[Setting], folder: Path, mistakes: list[ConfigError], notes: list[Note]
) -> dict[str, Given]:
    """The values, by key."""
    given: dict[str, Given] = {}
    for setting in settings:
        reader = Reader(setting.key, setting.value, folder, adds=setting.adds)
        try:
            given[setting.key] = Given(KEYS[setting.key](reader), setting.position)
        except ConfigError as error:
            mistakes += error.each
        notes += reader.notes
    return given


def with_loader(given: dict[str, Given]) -> tuple[dict[str, Given], list[Note]]:
    """The same with what the guest boots by as its kernel, if that is in its own disk. As in libxl_bootloader.c a `kernel`
    and `ramdisk` beside it are ignored. ConfigError: there is no disk, or no GRUB.
    """
    key = next((key for key in ("bootloader", "firmware") if key in given), None)
    if key is None:
        return given, []
    wanted, disks = given[key], given["disk"].value if "disk" in given else ()
    if key == "firmware" and "kernel" in given:
        raise ConfigError(wanted.position, "firmware and kernel are both given; leave one of them out")
    if not disks:
        raise ConfigError(wanted.position, f"{key} boots from a disk, and there is none; add disk = [ '…' ]")
    if wanted.value == PYGRUB and disks[0].format != "raw":
        raise ConfigError(
            wanted.position, f'pygrub reads raw images, not {disks[0].format}; write bootloader = "pvgrub"'
        )
    if wanted.value == PYGRUB and disks[0].backend is not None:
        raise ConfigError(wanted.position, 'pygrub reads disks that Dom0 serves; write bootloader = "pvgrub"')
    try:
        kernel = (
            DISK_PREFIX + disks[0].target
            if wanted.value == PYGRUB
            else grub(platform_of(given, wanted.value))
        )
    except ValueError as error:
        raise ConfigError(wanted.position, f"{key} {error}") from None
    over = (
        ("kernel", "ramdisk") if wanted.value == PYGRUB else ("kernel", "ramdisk", "cmdline", "root", "extra")
    )
    notes = [
        (given[name].position, f"{name} is ignored: the menu in the guest's disk says it")
        for name in over
        if name in given
    ]
    rest = {name: one for name, one in given.items() if name not in over}
    return {**rest, "kernel": Given(kernel, wanted.position)}, notes


def platform_of(given: dict[str, Given], wanted: str) -> str:
    """The GRUB for a guest of its type."""
    return PVH_GRUB if "type" in given and given["type"].value is GuestType.PVH else wanted


def joined(before: Value, setting: Setting) -> Value:
    """What `+=` makes of two values: two lists, or two strings. ConfigError: one of each."""
    after = setting.value
    if isinstance(before, ListValue) and isinstance(after, ListValue):
        return ListValue(before.items + after.items, before.position)
    if isinstance(before, Atom) and isinstance(after, Atom):
        return Atom(before.text + after.text, before.position)
    raise ConfigError(
        setting.position, f"{setting.key} += joins two lists or two strings, not one with the other"
    )


def assembled(given: dict[str, Given]) -> DomainConfig:
    """Fill in defaults and check what concerns more than one key."""

    def value(key: str, default: Any = None) -> Any:
        return given[key].value if key in given else default

    memory = value("memory", value("maxmem", DomainConfig.memory))
    vcpus = value("vcpus", 1)
    maxmem, maxvcpus = value("maxmem", memory), value("maxvcpus", vcpus)
    if maxmem < memory:
        raise ConfigError(given["maxmem"].position, f"maxmem {maxmem} is less than memory {memory}")
    if maxvcpus < vcpus:
        raise ConfigError(given["maxvcpus"].position, f"maxvcpus {maxvcpus} is less than vcpus {vcpus}")
    kind = value("type", DomainConfig.type)
    if kind is not GuestType.PV and value("kernel").startswith(PYTHON_PREFIX):
        raise ConfigError(given["type"].position, f"a Python guest is of type 'pv', not '{kind}'")
    if (why := too_many_vcpus(kind, value("kernel"), maxvcpus)) is not None:
        raise ConfigError(given["maxvcpus" if maxvcpus > vcpus else "vcpus"].position, why)
    if "shadow_memory" in given and not value("hap", True):
        shadow = given["shadow_memory"]
        if (why := too_little_shadow(shadow.value, maxmem, maxvcpus)) is not None:
            raise ConfigError(shadow.position, why)
    return DomainConfig(
        name=value("name"),
        type=kind,
        hap=value("hap", True),
        kernel=value("kernel"),
        memory=memory,
        maxmem=maxmem,
        vcpus=vcpus,
        maxvcpus=maxvcpus,
        cpus=value("cpus", ())[:maxvcpus],
        cpus_soft=value("cpus_soft", ())[:maxvcpus],
        cmdline=command_line(given),
        disks=value("disk", ()),
        vifs=value("vif", ()),
        max_grant_version=value("max_grant_version", DomainConfig.max_grant_version),
        driver_domain=value("driver_domain", False),
        **{key: given[key].value for key in ACTIONS if key in given},
        **{key: value(key) for key in PLAIN},
    )


def command_line(given: dict[str, Given]) -> str:
    """`cmdline`; without it `root=…` and `extra` put together, as xl does."""
    keys = ("cmdline",) if "cmdline" in given else ("root", "extra")
    used = {key: given[key] for key in keys if key in given}
    line = " ".join(f"root={item.value}" if key == "root" else item.value for key, item in used.items())
    if len(line.encode()) >= MAX_GUEST_CMDLINE:
        position = list(used.values())[-1].position
        raise ConfigError(position, f"the command line is longer than {MAX_GUEST_CMDLINE - 1} bytes")
    return line
