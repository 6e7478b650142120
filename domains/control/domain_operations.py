"""What Dom0's toolstack can be asked about a domain between its making and its end: the records of xl's rename, config-update,
sysrq, trigger, dump-core, save, restore and top. A part of `operations.py`, which has the table of all.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from domains.control.arguments import Arguments, Count, DomIdNumber
from domains.control.description import MAX_NAME, DomainConfig, DomainText, Number, PathText, bad_name
from domains.control.records import Length, Range, Record

LONGEST_SUSPEND: Final = 86400
"""Seconds of the longest time-out for a guest that is to suspend."""


class Created(Record):
    """A domain that was made; `warnings`: in what it differs from its description, a line each."""

    domid: DomIdNumber
    name: str
    warnings: tuple[str, ...] = ()


class Renamed(Record):
    """The name that a domain had, and the one it has now."""

    before: str | None
    name: str


class Rename(Arguments[Renamed]):
    """Give a domain another name, which it keeps when it is made again."""

    domain: DomainText
    name: Annotated[str, Length(4 * MAX_NAME)]

    def __post_init__(self) -> None:
        if (why := bad_name(self.name)) is not None:
            raise ValueError(f"a domain's name {why}")


class ConfigUpdate(Arguments[None]):
    """The description by which a domain is made again when it restarts; until then nothing changes."""

    domain: DomainText
    config: DomainConfig


class Sysrq(Arguments[None]):
    """Press a key of the guest's magic SysRq: it is written to control/sysrq, and Linux does what it stands for."""

    domain: DomainText
    key: Annotated[str, Length(1)]

    def __post_init__(self) -> None:
        if len(self.key) != 1 or not self.key.isprintable():
            raise ValueError(
                "a SysRq key is one letter or digit; 'h' has a Linux guest list them on its console"
            )


class Trigger(Arguments[None]):
    """Send a domain's vCPU one of libxl's triggers."""

    domain: DomainText
    trigger: Annotated[str, Length(16)]
    vcpu: Number = 0


class Dumped(Record):
    """A core dump that was written: how many pages it has."""

    pages: Count


class DumpCore(Arguments[Dumped]):
    """Write a domain's memory and registers to a file of the host's, by its absolute path, in Xen's dump-core format. The domain
    is paused meanwhile.
    """

    domain: DomainText
    path: PathText

    def __post_init__(self) -> None:
        _check_absolute(self.path)


class Saved(Record):
    """A domain that was written into a file: how many pages it has, and how many bytes the file."""

    pages: Count
    size: Count


class Save(Arguments[Saved]):
    """Write a domain into a file of the host's, by its absolute path, as xl does, and end it; with `checkpoint` it goes on, with
    `paused` it stays, paused. `config`: the description that the file shall have; its own without. `timeout`: seconds in which
    the guest must answer the request to suspend, and as many in which it must suspend then.
    """

    domain: DomainText
    path: PathText
    checkpoint: bool = False
    paused: bool = False
    config: DomainConfig | None = None
    timeout: Annotated[float, Range(0.001, LONGEST_SUSPEND)] = 60.0

    def __post_init__(self) -> None:
        _check_absolute(self.path)


class Restore(Arguments[Created]):
    """Make a domain of such a file; `config`: its description, in place of the file's. With `paused` it does not run yet."""

    path: PathText
    config: DomainConfig | None = None
    paused: bool = False

    def __post_init__(self) -> None:
        _check_absolute(self.path)


def _check_absolute(path: str) -> None:
    if not path.startswith("/"):
        raise ValueError(f"the file '{path}' is to be named by its absolute path")


class DomainTraffic(Record):
    """What Dom0's back ends have done for a domain: its interfaces and the bytes that went from and to it, its disks and the
    requests and sectors of 512 bytes that it has read and written.
    """

    domid: DomIdNumber
    nets: Count
    sent_bytes: Count
    received_bytes: Count
    vbds: Count
    rd_req: Count
    wr_req: Count
    rd_sect: Count
    wr_sect: Count


class Traffic(Arguments[tuple[DomainTraffic, ...]]):
    """What went through the devices of all domains that have any in Dom0."""


DOMAIN_OPERATIONS: Final[dict[str, type[Arguments[Any]]]] = {
    "rename": Rename,
    "config-update": ConfigUpdate,
    "sysrq": Sysrq,
    "trigger": Trigger,
    "dump-core": DumpCore,
    "save": Save,
    "restore": Restore,
    "traffic": Traffic,
}
"""These operations by their names."""
