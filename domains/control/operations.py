"""What Dom0's toolstack can be asked: one record an operation, and one table with the name of each on the wire.

A record's fields are the operation's arguments. `Arguments[R]` is answered once, by an R. `Stream[P, R]` is answered by
any number of P, then by an R. The asking program has `client.py`; `domains/dom0/toolstack/service.py` has what each one does.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, get_args
from uuid import UUID

from domains.control.arguments import ANY_NUMBER, Arguments, Count, DomIdNumber, Duration, Stream
from domains.control.description import DomainConfig, DomainText, InterfaceText
from domains.control.device_operations import DEVICE_OPERATIONS
from domains.control.domain_operations import DOMAIN_OPERATIONS
from domains.control.domain_operations import Created as Created
from domains.control.exit_code import LARGEST
from domains.control.memory_operations import MEMORY_OPERATIONS
from domains.control.migration_operations import MIGRATION_OPERATIONS
from domains.control.records import Length, Range, Record
from domains.control.sched_operations import SCHED_OPERATIONS
from domains.control.snapshot_operations import SNAPSHOT_OPERATIONS
from domains.control.vxlan_operations import VXLAN_OPERATIONS, VxlanSummary

MAX_KEYS: Final = 64
"""Debug keys pressed at once."""
LONGEST_WAIT: Final = 10 * 365 * 86400
"""Seconds of the longest time-out."""
MAX_TOGETHER: Final = 1024
"""Domains in one request."""
MAX_INPUT: Final = 1 << 16
"""Bytes of a console's input in one request."""

Timeout = Annotated[float, Range(0, LONGEST_WAIT)]
"""Seconds; 0: as long as it takes."""
ExitCode = Annotated[int, Range(0, LARGEST)]
"""What a guest has told that it ends with (exit_code.py)."""
RequestId = Annotated[int, Range(0, (1 << 63) - 1)]


# --- results -----------------------------------------------------------------------------------------


class Reason(Record):
    """How a domain has ended: `poweroff`, `reboot`, `crash` …; None if it was destroyed, or not waited for."""

    reason: str | None


class Ended(Record):
    """The end of a console's stream: why its domain has ended, and the code it ended with if it has told one."""

    ended: str
    exit_code: ExitCode | None = None


class Captured(Record):
    """The end of a capture: the packets in it, and those that were left out because they came too fast."""

    packets: Count
    dropped: Count


class Uplink(Record):
    """A bridge's connection with the host: the host's interface, its address or "", and the process in whose
    network namespace it is, or None for the host's own.
    """

    bridge: str
    ifname: str
    address: str
    namespace_pid: Annotated[int, ANY_NUMBER] | None


class Counter(Record):
    """One of the hypervisor's counters."""

    name: str
    value: Count


class MachineInfo(Record):
    """A machine: its name and paths, its scheduler, its CPUs and how many of them are in no pool, memory in frames of 4 KiB, the
    number of its domains; what the hypervisor has counted; what held the core longest at a time, and for how many ms of CPU
    time; the same of Dom0's loop; the seed of a machine that repeats itself, how long it has run in its own time, and the hash
    of its run; HOST:PORT where other machines may connect to send domains; how many snapshots it has, and how many bytes of
    the host's memory they take beside the machine's.
    """

    machine: str
    folder: str
    xenstored_path: str
    xen_scheduler: str
    nr_cpus: Count
    free_cpus: Count
    total_frames: Count
    free_frames: Count
    domains: Count
    uplinks: tuple[Uplink, ...]
    vxlans: tuple[VxlanSummary, ...]
    counters: tuple[Counter, ...]
    core_longest_busy_ms: Duration
    core_longest_busy_with: str
    dom0_longest_busy_ms: Duration
    dom0_longest_busy_with: str
    seed: Count | None = None
    system_time_ns: Count | None = None
    run_hash: str | None = None
    listens: str | None = None
    snapshots: Count = 0
    snapshot_bytes: Count = 0


class Listed(Record):
    """A domain as `list` shows it. Memory in KiB, CPU time in seconds; `state`: xl's six letters; `cpupool`: the name of its
    CPU pool; `pid`: the host's process behind it; `uptime`: seconds since it was made, of Dom0 since the machine began;
    `config`: how it was made, if this toolstack made it.
    """

    domid: DomIdNumber
    name: str | None
    uuid: UUID
    state: str
    shutdown: str | None
    memory_kib: Count
    max_memory_kib: Count
    vcpus: Count
    cpupool: str
    cpu_time: Duration
    pid: Count | None
    uptime: Duration | None
    config: DomainConfig | None


class StoreNode(Record):
    """A node of xenstore; `permissions` as xenstore-ls writes them: `n0`, `r5` …"""

    path: str
    value: bytes
    permissions: tuple[str, ...]


# --- the machine -------------------------------------------------------------------------------------


class Info(Arguments[MachineInfo]):
    """Tell about the machine."""


class Stop(Arguments[None]):
    """End the machine, with every domain; answered just before."""


class Dmesg(Arguments[bytes]):
    """Read the hypervisor's log, and empty it with `clear`."""

    clear: bool = False


class FollowLog(Stream[bytes, None]):
    """The hypervisor's log from now on, as it is written. It never ends."""


class DebugKeys(Arguments[None]):
    """Have the hypervisor report on itself in its log, once for each key."""

    keys: Annotated[str, Length(MAX_KEYS)]


class XenstoreLs(Arguments[tuple[StoreNode, ...]]):
    """A node and all below it, depth first, children by name."""

    path: Annotated[str, Length(4096)] = "/"


# --- domains -----------------------------------------------------------------------------------------


class Create(Arguments[Created]):
    """Make a domain; with `paused` it does not run yet. Answered when its devices are there."""

    config: DomainConfig
    paused: bool = False


class CreateWatched(Stream[Created | bytes, Ended]):
    """As Create, and go on with the domain's console from its first byte."""

    config: DomainConfig
    paused: bool = False


class Destroy(Arguments[None]):
    """End a domain at once; answered when its id is free."""

    domain: DomainText


class List(Arguments[tuple[Listed, ...]]):
    """All domains in the order of their ids, or one; `brief`: without how they were made, of which a list takes no notice."""

    domain: DomainText | None = None
    brief: bool = False


class Pause(Arguments[None]):
    """Let a domain run no further."""

    domain: DomainText


class Unpause(Arguments[None]):
    """Let a paused domain go on."""

    domain: DomainText


class RunTogether(Arguments[bool]):
    """Let these paused domains go on together; answered True when all have ended, False after so many seconds of the machine's
    time, when those that have not are paused.
    """

    domains: Annotated[tuple[DomainText, ...], Length(MAX_TOGETHER)]
    seconds: Timeout = 0.0


class Shutdown(Arguments[Reason]):
    """Ask a domain to power off; with `wait` answered when it has ended, or after `timeout`."""

    domain: DomainText
    wait: bool = False
    timeout: Timeout = 0.0


class Reboot(Arguments[Reason]):
    """Ask a domain to reboot; `wait`, `timeout` as in Shutdown."""

    domain: DomainText
    wait: bool = False
    timeout: Timeout = 0.0


class Wait(Arguments[Reason]):
    """Wait until a domain has ended. With `reboots` a reboot that it comes back from is no end."""

    domain: DomainText
    reboots: bool = False


class Domid(Arguments[DomIdNumber]):
    """The id of a domain."""

    domain: DomainText


class Domname(Arguments[str | None]):
    """The name of a domain."""

    domain: DomainText


# --- streams -----------------------------------------------------------------------------------------


class Console(Stream[bytes, Ended]):
    """A domain's console from the oldest byte kept on. With `reboots` it goes on with the domain that follows after
    a reboot.
    """

    domain: DomainText
    reboots: bool = False


class ConsoleInput(Arguments[None]):
    """Type into the console that this client has followed last. Never answered."""

    data: Annotated[bytes, Length(MAX_INPUT)]


class ConsoleDetach(Arguments[None]):
    """Follow no longer what `request` began, or anything. Never answered."""

    request: RequestId | None = None


class NetworkCapture(Stream[bytes, Captured]):
    """What passes interface `vif` of a domain, or a bridge of Dom0, as pcap."""

    domain: DomainText | None = None
    vif: Annotated[int, Range(0, 0xFFFF)] = 0
    bridge: InterfaceText | None = None

    def __post_init__(self) -> None:
        if (self.domain is None) == (self.bridge is None):
            raise ValueError("name a domain, or a bridge")


OPERATIONS: Final[dict[str, type[Arguments[Any]]]] = {
    "info": Info,
    "stop": Stop,
    "dmesg": Dmesg,
    "follow-log": FollowLog,
    "debug-keys": DebugKeys,
    "xenstore-ls": XenstoreLs,
    "create": Create,
    "create-watched": CreateWatched,
    "destroy": Destroy,
    "list": List,
    "pause": Pause,
    "unpause": Unpause,
    "run-together": RunTogether,
    "shutdown": Shutdown,
    "reboot": Reboot,
    "wait": Wait,
    "domid": Domid,
    "domname": Domname,
    "console": Console,
    "console-input": ConsoleInput,
    "console-detach": ConsoleDetach,
    "network-capture": NetworkCapture,
    **DOMAIN_OPERATIONS,
    **DEVICE_OPERATIONS,
    **MEMORY_OPERATIONS,
    **MIGRATION_OPERATIONS,
    **SCHED_OPERATIONS,
    **SNAPSHOT_OPERATIONS,
    **VXLAN_OPERATIONS,
}
"""Every operation by its name."""


def name_of(kind: type[Arguments[Any]]) -> str:
    """An operation's name on the wire."""
    return next(name for name, arguments in OPERATIONS.items() if arguments is kind)


def answers_of(kind: type[Arguments[Any]]) -> tuple[Any, Any]:
    """The types of an operation's answers: of those with more to follow (None: there are none), and of the last one."""
    (base,) = kind.__orig_bases__  # type: ignore[attr-defined]
    *pieces, result = get_args(base)
    return (pieces[0] if pieces else None), result
