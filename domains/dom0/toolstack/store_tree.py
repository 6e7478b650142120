"""A domain's own directories in xenstore, as the toolstack makes them, with their permissions.

    /local/domain/5            owner 0, readable by 5: the domain sees, the toolstack decides
        name domid vm
        memory/  cpu/  console/  store/        readable
        control/  device/                      readable; of control/ single nodes are the domain's
        data drivers feature attr error        the domain's own
    /vm/<uuid>                 readable: uuid name start_time image/
    /libxl/5                   the toolstack's own: type, device/<kind>/<id>/{frontend,backend}

Source: libxl's domain creation (tools/libs/light), whose nodes and permissions guests rely on.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final
from uuid import UUID

from domains.control.description import DomainConfig
from domains.control.exit_code import EXIT_CODE_NODE, exit_code_of
from domains.dom0.toolstack.builder.rings import Built
from domains.kernel.store_calls import StoreCalls
from domains.kernel.tasks import NEXT_TURN, Task
from domains.kernel.xenbus import Xenbus
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import DomId

READABLE_DIRECTORIES: Final = ("cpu", "memory", "device", "control")
OWN_NODES: Final = (
    "device/suspend/event-channel",
    "control/shutdown",
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    "control/sysrq",
    "data",
    "drivers",
    "feature",
    "attr",
    "error",
)
CONSOLE_LIMIT: Final = 1 << 20
PROTOCOL: Final = "vt100"


def home(domid: DomId) -> str:
    """A domain's own directory in xenstore."""
    return f"/local/domain/{domid}"


def write_all(nodes: StoreCalls, path: str, values: Mapping[str, str | int]) -> None:
    """Writes each value under its name in `path`."""
    for name, value in values.items():
        nodes.write(f"{path}/{name}", str(value))


def remove(nodes: StoreCalls, path: str) -> None:
    """Remove a node and what is below it, if it is there."""
    try:
        nodes.rm(path)
    except XenError as error:
        if error.errno is not Errno.ENOENT:
            raise


def read_or_none(nodes: StoreCalls, path: str) -> str | None:
    """The value of a node; None: there is no such node."""
    try:
        return nodes.read(path)
    except XenError as error:
        if error.errno is Errno.ENOENT:
            return None
        raise


def exit_code(nodes: StoreCalls, domid: DomId) -> int | None:
    """The code that a guest has told to end with, if any."""
    return exit_code_of(read_or_none(nodes, f"{home(domid)}/{EXIT_CODE_NODE}") or "")


def children(nodes: StoreCalls, path: str) -> list[str]:
    """Names of a node's children; none if there is no such node."""
    try:
        return nodes.directory(path)
    except XenError as error:
        if error.errno is Errno.ENOENT:
            return []
        raise


def make_tree(xenbus: Xenbus, domid: DomId, uuid: UUID, name: str, now: int) -> Task[None]:
    """The empty directories of a new domain; what a former one left is gone.

    Dozens of requests: the others' turn comes between. The name is there before the first pause, so that no two
    domains get the same one. Nobody looks for the rest before the domain is introduced to the store.
    """
    xenbus.in_transaction(partial(make_roots, domid=domid, uuid=uuid, name=name, now=now))
    yield NEXT_TURN
    xenbus.in_transaction(partial(make_directories, domid=domid))
    yield NEXT_TURN
    xenbus.in_transaction(partial(make_own_nodes, domid=domid))
    yield NEXT_TURN


def make_roots(nodes: StoreCalls, domid: DomId, uuid: UUID, name: str, now: int) -> None:
    """The three directories of a new domain, with what says whose they are. `now`: the wall-clock time, ns."""
    path, vm = home(domid), f"/vm/{uuid}"
    readable = ["n0", f"r{domid}"]
    for directory, permissions in ((path, readable), (vm, readable), (f"/libxl/{domid}", ["n0"])):
        remove(nodes, directory)
        nodes.mkdir(directory)
        nodes.set_permissions(directory, permissions)
    write_all(nodes, path, {"vm": vm, "name": name})
    write_all(nodes, vm, {"uuid": str(uuid), "name": name, "start_time": f"{now / 1e9:.2f}"})
    write_all(nodes, f"/libxl/{domid}", {"type": "pv"})


def make_directories(nodes: StoreCalls, domid: DomId) -> None:
    """The directories that the domain may read."""
    path = home(domid)
    for directory in READABLE_DIRECTORIES:
        nodes.mkdir(f"{path}/{directory}")
        nodes.set_permissions(f"{path}/{directory}", ["n0", f"r{domid}"])
    write_all(nodes, f"{path}/control", {"platform-feature-xs_reset_watches": 1})


def make_own_nodes(nodes: StoreCalls, domid: DomId) -> None:
    """The nodes that the domain may write."""
    for node in OWN_NODES:
        nodes.write(f"{home(domid)}/{node}", "")
        nodes.set_permissions(f"{home(domid)}/{node}", [f"n{domid}"])


def publish(xenbus: Xenbus, domid: DomId, uuid: UUID, config: DomainConfig, built: Built) -> Task[None]:
    """What is known once the domain is built; the others' turn comes between."""
    xenbus.in_transaction(partial(publish_domain, domid=domid, uuid=uuid, config=config, built=built))
    yield NEXT_TURN
    xenbus.in_transaction(partial(publish_console, domid=domid, built=built))
    yield NEXT_TURN


def publish_domain(nodes: StoreCalls, domid: DomId, uuid: UUID, config: DomainConfig, built: Built) -> None:
    """Its memory, its vCPUs, its ring of the store and its kernel."""
    path = home(domid)
    write_all(
        nodes,
        path,
        {
            "memory/static-max": config.maxmem * 1024,
            "memory/target": config.memory * 1024,
            "memory/videoram": 0,
            "domid": domid,
            "store/port": built.store_port,
            "store/ring-ref": built.store_mfn,
        },
    )
    write_availability(nodes, domid, config.vcpus, config.maxvcpus)
    if config.mark is not None:
        nodes.write(f"/libxl/{domid}/mark", config.mark)
    image = {"ostype": "linux", "kernel": config.kernel, "cmdline": config.cmdline}
    write_all(nodes, f"/vm/{uuid}/image", image | ({"ramdisk": config.ramdisk} if config.ramdisk else {}))


def write_availability(nodes: StoreCalls, domid: DomId, online: int, vcpus: int) -> None:
    """Tell a domain which of its vCPUs are to be online: the first so many."""
    for vcpu in range(vcpus):
        state = "online" if vcpu < online else "offline"
        nodes.write(f"{home(domid)}/cpu/{vcpu}/availability", state)


def publish_console(nodes: StoreCalls, domid: DomId, built: Built) -> None:
    """The first console: its front end lies outside of device/, and is not the domain's to write."""
    front, back = f"{home(domid)}/console", f"{home(DomId(0))}/backend/console/{domid}/0"
    readable = ["n0", f"r{domid}"]
    for directory in (front, back):
        remove(nodes, directory)
        nodes.mkdir(directory)
        nodes.set_permissions(directory, readable)
    values: dict[str, str | int] = {
        "backend": back,
        "backend-id": 0,
        "limit": CONSOLE_LIMIT,
        "type": "xenconsoled",
        "output": "pty",
    }
    write_all(nodes, front, values)
    write_all(
        nodes,
        front,
        {"tty": tty_of(domid), "port": built.console_port, "ring-ref": built.console_mfn},
    )
    write_all(nodes, back, {"frontend": front, "frontend-id": domid, "online": 1, "state": 1})
    write_all(nodes, back, {"protocol": PROTOCOL})


def tty_of(domid: DomId) -> str:
    """What the store calls the tty of a domain's console. It is no file: xenconsole opens it by way of Dom0 (docs/xl.md)."""
    return f"/dev/xenconsole/{domid}"


def remove_tree(nodes: StoreCalls, domid: DomId) -> None:
    """Everything there is of a domain, what serves it in Dom0 included."""
    vm = read_or_none(nodes, f"{home(domid)}/vm")
    backend = f"{home(DomId(0))}/backend"
    for kind in children(nodes, backend):
        remove(nodes, f"{backend}/{kind}/{domid}")
    for path in filter(None, (vm, f"/libxl/{domid}", home(domid))):
        remove(nodes, path)


def rename(nodes: StoreCalls, domid: DomId, name: str) -> None:
    """Give a domain another name."""
    nodes.write(f"{home(domid)}/name", name)
    vm = read_or_none(nodes, f"{home(domid)}/vm")
    if vm is not None:
        nodes.write(f"{vm}/name", name)
