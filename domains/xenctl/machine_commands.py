"""Commands on a machine as a whole: start, stop, info, dmesg, debug-keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from domains.control.migration_operations import PLACE
from domains.control.operations import DebugKeys, Dmesg, Info, Uplink
from domains.control.protocol import ControlError, Exit
from domains.control.records import encode
from domains.xenctl import launch, machine
from domains.xenctl.folder import folder_of, supervisor_pid
from domains.xenctl.options import DEFAULT, Argument, Json, Machine, Option
from domains.xenctl.output import print_json, print_lines, printable
from domains.xenctl.seeded import Seed, cpus_with, repeatable
from domains.xenctl.usage import checked
from domains.xenctl.vxlan_commands import vxlan_text

Listen = Annotated[
    str | None,
    Option(metavar="HOST:PORT", help="Let machines connect there whose keys are known; port 0: any."),
]


def start(
    name: Machine = DEFAULT,
    memory: Annotated[
        int, Option(min=launch.MIN_MEMORY, max=64 * 1024, help="Memory of the machine in MiB.")
    ] = launch.DEFAULT_MEMORY,
    cpus: Annotated[
        int | None,
        Option(min=1, max=64, help=f"Emulated CPUs; {launch.DEFAULT_CPUS}, and with --seed 1."),
    ] = None,
    sched: Annotated[
        str, Option(metavar="NAME", help="Their scheduler, as on Xen's command line.")
    ] = launch.DEFAULT_SCHEDULER,
    slice_ms: Annotated[
        float | None, Option(min=0.1, max=1000, help="Length of its slices, if it has one to set.")
    ] = None,
    uplink: Annotated[
        list[str] | None,
        Option(
            metavar="BRIDGE[=ADDRESS/PREFIX][,ifname=NAME]",
            help="Connect a bridge with the host, whose end gets the address. Repeatable.",
        ),
    ] = None,
    listen: Listen = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Start a machine in the background; returns when its Dom0 answers."""
    repeatable(seed)
    slice_ns = None if slice_ms is None else round(slice_ms * 1e6)
    uplinks = checked_uplinks(uplink or [])
    check_listen(listen, seed)
    hardware = launch.Hardware(memory, cpus_with(seed, cpus), uplinks, sched, slice_ns, seed, listen=listen)
    if not launch.start_machine(name, hardware):
        raise ControlError(Exit.FAILURE, f"machine '{name}' is running already; 'xenctl stop' ends it")
    if json:
        info(name, json=True)
        return
    print(f"machine {name} started")
    if uplink or listen:
        with machine.connect(name) as client:
            about = client.call(Info())
        for one in about.uplinks:
            print(f"uplink {uplink_text(one)}")
        if about.listens is not None:
            print(f"listens at tcp://{about.listens}")


def check_listen(listen: str | None, seed: int | None) -> None:
    """Raises ControlError for what is no HOST:PORT, and for a machine that repeats itself."""
    if listen is None:
        return
    if PLACE.fullmatch(listen) is None or int(listen.rpartition(":")[2]) >= 1 << 16:
        raise ControlError(Exit.USAGE, f"'{listen}' is no HOST:PORT, such as 0.0.0.0:7800 or [::]:7800")
    if seed is not None:
        raise ControlError(
            Exit.USAGE, "--listen: a machine that repeats itself (--seed) takes nothing from others"
        )


def checked_uplinks(texts: Sequence[str]) -> list[str]:
    """Each as Dom0 is told of it. Raises ControlError."""
    if not texts:
        return []
    from domains.dom0.toolstack.xlcfg.uplink import parse_uplink

    return checked(lambda: [str(parse_uplink(text)) for text in texts])


def uplink_text(uplink: Uplink) -> str:
    """Where an uplink ends, and how to get there."""
    text = f"{uplink.bridge}: interface {uplink.ifname}"
    if uplink.address:
        text += f" with {uplink.address}"
    if uplink.namespace_pid is not None:
        text += f", in a namespace: nsenter -t {uplink.namespace_pid} --user --net"
    return text


def stop(name: Machine = DEFAULT, json: Json = False) -> None:
    """End a machine with all its domains."""
    machine.stop_machine(name)
    if json:
        print_json({"machine": name, "stopped": True})
    else:
        print(f"machine {name} stopped")


def info(name: Machine = DEFAULT, json: Json = False) -> None:
    """Show a machine's memory, CPUs and paths, and what its hypervisor has counted."""
    with machine.connect(name) as client:
        info = client.call(Info())
    about = {**encode(info), "supervisor_pid": supervisor_pid(folder_of(name))}
    if json:
        print_json(about)
        return
    del about["uplinks"], about["vxlans"], about["counters"]
    for key, value in about.items():
        if value is None:
            continue
        print(f"{key:<22}: {value}")
    for one in info.uplinks:
        print(f"{'uplink':<22}: {uplink_text(one)}")
    for port in info.vxlans:
        print(f"{'vxlan':<22}: {vxlan_text(port, port.hosts)}")
    for counter in info.counters:
        print(f"{printable(counter.name):<22}: {counter.value}")


def dmesg(
    name: Machine = DEFAULT,
    clear: Annotated[bool, Option("--clear", "-c", help="Empty the log afterwards.")] = False,
    json: Json = False,
) -> None:
    """Print the hypervisor's log."""
    with machine.connect(name) as client:
        text = client.call(Dmesg(clear))
    if json:
        print_json(text.decode("utf-8", "replace").splitlines())
    else:
        print_lines(text.decode("utf-8", "replace"))


def debug_keys(
    keys: Annotated[str, Argument(help="One or more; h: tell which there are.", metavar="KEYS")],
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Have the hypervisor report on its own state in its log, as 'dmesg' shows it."""
    with machine.connect(name) as client:
        client.call(DebugKeys(keys))
    if json:
        print_json({"keys": keys, "done": "debug-keys"})
