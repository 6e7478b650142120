"""From the text of a description, and KEY=VALUE arguments that override it, to a DomainConfig."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from domains.control.description import (
    MAX_GRANT_VERSION,
    MAX_GUEST_CMDLINE,
    MAX_MEMORY,
    MAX_SHADOW_MEMORY,
    MAX_VCPUS,
    MAX_WEIGHT,
    PYTHON_PREFIX,
    DomainConfig,
    GuestType,
    too_little_shadow,
)
from domains.dom0.toolstack.xlcfg.hvm import without_device_model
from domains.dom0.toolstack.xlcfg.schema import IGNORED, Reader, unknown_key
from domains.dom0.toolstack.xlcfg.syntax import (
    Atom,
    ConfigError,
    ListValue,
    Position,
    Setting,
    Value,
    all_of,
    parse,
    parse_override,
)

MAX_TEXT: Final = 1 << 20
"""Characters of a description."""

KEYS: Final[dict[str, Callable[[Reader], Any]]] = {
    "name": Reader.name,
    "kernel": Reader.kernel,
    "ramdisk": Reader.path,
    "cmdline": Reader.text,
    "root": Reader.text,
    "extra": Reader.text,
    "memory": lambda value: value.number(1, MAX_MEMORY),
    "maxmem": lambda value: value.number(1, MAX_MEMORY),
    "vcpus": lambda value: value.number(1, MAX_VCPUS),
    "maxvcpus": lambda value: value.number(1, MAX_VCPUS),
    "uuid": Reader.uuid,
    "disk": Reader.disks,
    "vif": Reader.vifs,
    "type": Reader.guest_type,
    "hap": Reader.boolean,
    "shadow_memory": lambda value: value.number(1, MAX_SHADOW_MEMORY),
    "builder": lambda value: value.must_be("generic", "linux"),
    "on_poweroff": Reader.action,
    "on_reboot": Reader.action,
    "on_crash": Reader.action,
    "on_watchdog": Reader.action,
    "cpu_weight": lambda value: value.number(1, MAX_WEIGHT),
    "cap": lambda value: value.number(0, 100 * MAX_VCPUS),
    "max_grant_frames": lambda value: value.number(1),
    "max_maptrack_frames": lambda value: value.number(0),
    "max_grant_version": lambda value: value.number(1, MAX_GRANT_VERSION),
    "max_event_channels": lambda value: value.number(1),
    "driver_domain": Reader.boolean,
}
"""Every key that is acted on, and how its value is read."""

OF_PVH: Final = frozenset({"hap", "shadow_memory"})
"""Keys that mean something to a PVH domain alone."""

ACTIONS: Final = ("on_poweroff", "on_reboot", "on_crash", "on_watchdog")

PLAIN: Final = (
    "ramdisk",
    "uuid",
    "shadow_memory",
    "cpu_weight",
    "cap",
    "max_grant_frames",
    "max_maptrack_frames",
    "max_event_channels",
)
"""Keys that are fields of DomainConfig as they are."""


Warn = Callable[[str], None]
"""Told of what is read over, in one line with its place."""

Plain = str | int
"""What a setting that was never text, or an entry of its list, may be."""


@dataclass(frozen=True, slots=True)
class Given:
    """The last value of one key."""

    value: Any
    position: Position


def load(path: Path, overrides: Sequence[str] = (), warn: Warn = lambda _line: None) -> DomainConfig:
    """Read a file. Raises ConfigError, OSError."""
    text = path.read_text(encoding="utf-8", errors="replace")
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
    each setting that is read over. Raises ConfigError with everything that is wrong.
    """
    start = Position(file, 1, 1)
    if len(text) > MAX_TEXT:
        raise ConfigError(start, f"longer than {MAX_TEXT} characters; this is no domain description")
    given = [setting for override in overrides for setting in parse_override(override)]
    return described([*parse(text, file), *given], start, folder, warn)


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
    settings: Iterable[Setting], start: Position, folder: Path, warn: Warn = lambda _line: None
) -> DomainConfig:
    """The domain that settings describe; `start` is where a missing one is told. Raises ConfigError with everything
    that is wrong.
    """
    mistakes: list[ConfigError] = []
    read_over: list[Setting] = []
    given: dict[str, Given] = {}
    last, too_much = without_device_model(merged(settings, mistakes))
    mistakes += too_much
    pvh = any(
        setting.key == "type" and getattr(setting.value, "text", "") == GuestType.PVH for setting in last
    )
    for setting in last:
        if setting.key in IGNORED and not (pvh and setting.key in OF_PVH):
            read_over.append(setting)
            continue
        try:
            value = KEYS[setting.key](Reader(setting.key, setting.value, folder))
        except ConfigError as error:
            mistakes += error.each
        else:
            given[setting.key] = Given(value, setting.position)
    for key, example in (("name", 'name = "web"'), ("kernel", 'kernel = "vmlinuz" or "python:module:Class"')):
        if all(setting.key != key for setting in last):
            mistakes.append(ConfigError(start, f"'{key}' is missing; add {example}"))
    refused = {(mistake.position.file, mistake.position.line) for mistake in mistakes}
    for setting in read_over:
        if (setting.position.file, setting.position.line) not in refused:
            warn(f"{setting.position}: {setting.key} is read over: {IGNORED[setting.key]}")
    if mistakes:
        raise all_of(mistakes)
    return assembled(given)


def merged(settings: Iterable[Setting], mistakes: list[ConfigError]) -> list[Setting]:
    """One setting a key: the last one, with `+=` put after what was there. Keys that are not served are put among the
    mistakes.
    """
    last: dict[str, Setting] = {}
    for setting in settings:
        if setting.key not in KEYS and setting.key not in IGNORED:
            mistakes.append(ConfigError(setting.position, unknown_key(setting.key, frozenset(KEYS))))
            continue
        before = last.get(setting.key)
        try:
            if setting.adds and before is not None:
                setting = replace(setting, value=joined(before.value, setting))
        except ConfigError as error:
            mistakes.append(error)
        last[setting.key] = setting
    return list(last.values())


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
