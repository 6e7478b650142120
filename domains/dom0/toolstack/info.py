"""What is shown of domains, of the machine and of the store: the records that answer `info`, `list`, `xenstore-ls`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from domains.control.operations import Counter, Listed, MachineInfo, StoreNode, Uplink
from domains.control.records import encode
from domains.control.vxlan_operations import VxlanSummary
from domains.dom0.toolstack.domains import Domains
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.lifecycle import name_of
from domains.dom0.toolstack.parts import Parts
from domains.dom0.toolstack.snapshots.snapshots import Snapshots
from domains.dom0.toolstack.xenctrl import DomainInfo, XenCtrl
from domains.kernel.tasks import NEXT_TURN, Task
from domains.kernel.xenbus import Xenbus
from hypervisor.machine.busiest import Busiest
from hypervisor.machine.counters import INPUTS
from hypervisor.public.errno import Errno, XenError

KIB_PER_PAGE: Final = 4
LONGEST_BUSY: Final = "longest busy, us: "
"""How the counter begins whose name goes on to tell what it was."""
RUN_HASH: Final = "run hash: "
"""How the counter begins whose name goes on with the hash of the run, on a machine that repeats itself."""
DOMAINS_PER_TURN: Final = 16
NODES_PER_TURN: Final = 16
MAX_NODES: Final = 50_000
"""Nodes shown of the store."""


@dataclass(frozen=True, slots=True)
class MachineIdentity:
    """What Dom0 knows of its machine that Xen does not: its name, its folder and what is in it, its seed."""

    name: str
    folder: Path
    xenstored_path: Path
    uplinks: tuple[Uplink, ...]
    seed: int | None
    listens: str | None = None
    """HOST:PORT where other machines may connect."""


def describe(
    info: DomainInfo, domains: Domains, pools: Mapping[int, str], now: int, *, brief: bool
) -> Listed:
    """One domain as `list` shows it. `pools`: the names of CPU pools; `now`: system time, ns; `brief`: not how it was made."""
    record = domains.records.get(info.domid)
    created = 0 if info.domid == 0 else record.created if record is not None else None
    return Listed(
        domid=info.domid,
        name=domains.name_of(info.domid),
        uuid=UUID(bytes=info.handle),
        state=info.state,
        shutdown=name_of(info.shutdown) if info.shutdown is not None else None,
        memory_kib=info.tot_pages * KIB_PER_PAGE,
        max_memory_kib=min(info.max_pages, 1 << 40) * KIB_PER_PAGE,
        vcpus=info.vcpus,
        cpupool=pools.get(info.cpupool, str(info.cpupool)),
        cpu_time=info.cpu_time / 1e9,
        pid=info.pid or None,
        uptime=None if created is None else max(now - created, 0) / 1e9,
        config=record.config if record is not None and not brief else None,
    )


def describe_all(
    xen: XenCtrl, domains: Domains, pools: Mapping[int, str], now: int, *, brief: bool
) -> Task[list[Any]]:
    """All domains as `list` shows them, in the form in which they are sent; the others' turn comes after every few."""
    listed: list[Any] = []
    for number, info in enumerate((yield from xen.all_domains()), 1):
        listed.append(encode(describe(info, domains, pools, now, brief=brief)))
        if number % DOMAINS_PER_TURN == 0:
            yield NEXT_TURN
    return listed


def describe_machine(
    parts: Parts,
    identity: MachineIdentity,
    vxlans: tuple[VxlanSummary, ...],
    snapshots: Snapshots,
    busiest: Busiest | None,
    now: int,
) -> MachineInfo:
    """The machine as `info` shows it. `busiest`: what held Dom0's loop; `now`: system time, ns."""
    xen, scheduling = parts.xen, parts.scheduling
    physical = xen.physinfo()
    counted = xen.perfc_query()
    what, longest = longest_busy(counted)
    repeats = identity.seed is not None
    return MachineInfo(
        machine=identity.name,
        folder=str(identity.folder),
        xenstored_path=str(identity.xenstored_path),
        xen_scheduler=scheduling.name,
        nr_cpus=physical.nr_cpus,
        free_cpus=scheduling.free_cpus,
        total_frames=physical.total_pages,
        free_frames=physical.free_pages,
        domains=len(xen.domains()),
        uplinks=identity.uplinks,
        vxlans=vxlans,
        counters=tuple(
            Counter(name, sum(values))
            for name, values in counted.items()
            if not name.startswith((LONGEST_BUSY, RUN_HASH)) and (repeats or name != INPUTS)
        ),
        core_longest_busy_ms=longest,
        core_longest_busy_with=what,
        dom0_longest_busy_ms=busiest.us / 1000 if busiest is not None else 0.0,
        dom0_longest_busy_with=busiest.what if busiest is not None else "",
        seed=identity.seed,
        system_time_ns=now if repeats else None,
        listens=identity.listens,
        run_hash=next((name.removeprefix(RUN_HASH) for name in counted if name.startswith(RUN_HASH)), None),
        snapshots=len(snapshots.listed()),
        snapshot_bytes=snapshots.memory_bytes,
    )


def longest_busy(counters: dict[str, list[int]]) -> tuple[str, float]:
    """What held the core longest at a time, and for how many ms of CPU time."""
    for name, values in counters.items():
        if name.startswith(LONGEST_BUSY):
            return name.removeprefix(LONGEST_BUSY), values[0] / 1000
    return "", 0.0


def walk_store(xenbus: Xenbus, path: str) -> Task[list[Any]]:
    """A StoreNode of a node and of each below it, depth first, children by name, in the form in which they are sent.
    Raises ToolstackError. The others' turn comes after every few nodes: what changes meanwhile is shown as it was found.
    """
    root = path.rstrip("/") or "/"
    found: list[Any] = []
    rest = [root]
    while rest:
        node = rest.pop()
        try:
            shown = StoreNode(node, xenbus.read_bytes(node), tuple(xenbus.get_permissions(node)))
            found.append(encode(shown))
            names = sorted(xenbus.directory(node), reverse=True)
        except XenError as error:
            if error.errno is not Errno.ENOENT:
                raise
            if node == root:
                raise ToolstackError(f"xenstore has no node {path}") from None
            continue
        if len(found) > MAX_NODES:
            raise ToolstackError(f"more than {MAX_NODES} nodes below {path}; name a node further down")
        rest += [f"{node.rstrip('/')}/{name}" for name in names]
        if len(found) % NODES_PER_TURN == 0:
            yield NEXT_TURN
    return found
