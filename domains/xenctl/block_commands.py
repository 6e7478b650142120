"""Commands on the disks of a running domain: block-attach, block-list, block-detach."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from domains.control.description import Disk
from domains.control.device_operations import (
    DETACH_SECONDS,
    LONGEST_DETACH,
    BlockAttach,
    BlockDetach,
    BlockDevice,
    BlockList,
)
from domains.control.protocol import ControlError, Exit
from domains.control.records import encode
from domains.xenctl import machine
from domains.xenctl.options import DEFAULT, Argument, Domain, Json, Machine, Option
from domains.xenctl.output import print_json, printable
from domains.xenctl.usage import checked

Domains = Annotated[list[str], Argument(help="Names or ids of domains.", metavar="DOMAIN...")]
Force = Annotated[
    bool, Option("--force", "-f", help="Do not wait for the domain to release it; that may cost it data.")
]
Timeout = Annotated[
    float, Option("--timeout", min=0, max=LONGEST_DETACH, help="Seconds that the domain gets to release it.")
]


def block_attach(
    domain: Domain,
    disk: Annotated[
        list[str],
        Argument(
            help="As an entry of disk in a description, in one word or several.", metavar="DISK-SPEC..."
        ),
    ],
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Give a running domain one more disk."""
    wanted = BlockAttach(domain, disk_of(disk))
    with machine.connect(name) as client:
        attached = client.call(wanted)
    if json:
        print_json(encode(attached))


def disk_of(words: list[str]) -> Disk:
    """The disk that a specification in one or several words describes. Raises ControlError."""
    from domains.dom0.toolstack.xlcfg.disk import image_path, parse_disk
    from domains.dom0.toolstack.xlcfg.disk_syntax import EMPTY

    disk = checked(lambda: parse_disk(",".join(words)))
    if disk.format == EMPTY:
        raise ControlError(Exit.USAGE, "nothing can be put into an empty drive later: name its image, too")
    return disk.replaced(target=image_path(disk.target, Path.cwd()))


def block_list(domains: Domains, name: Machine = DEFAULT, json: Json = False) -> None:
    """List the disks of domains, as xl does."""
    with machine.connect(name) as client:
        disks = client.call(BlockList(tuple(domains)))
    if json:
        print_json(encode(disks))
        return
    columns = ("Vdev", "BE", "handle", "state", "evt-ch", "ring-ref", "BE-path")
    print("{:<5} {:<3} {:<6} {:<5} {:<6} {:<8} {:<30}".format(*columns))
    for disk in disks:
        print(disk_line(disk))


def disk_line(disk: BlockDevice) -> str:
    """One disk, as xl prints it: the handle is the domain's id."""
    numbers = f"{disk.devid:<5} {disk.backend_id:<3} {disk.domid:<6} {disk.state:<5}"
    return f"{numbers} {disk.event_channel:<6} {disk.ring_ref:<8} {printable(disk.backend_path):<30}"


def block_detach(
    domain: Domain,
    device: Annotated[
        str, Argument(help="What the domain calls it, or its number: xvdb, 51728.", metavar="DEVICE")
    ],
    force: Force = False,
    timeout: Timeout = DETACH_SECONDS,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Take a disk away from a running domain, once the domain has released it.

    One that does not release it in time keeps it, and the exit code is 4.
    """
    with machine.connect(name) as client:
        client.call(BlockDetach(domain, device, force, timeout), timeout=math.inf)
    if json:
        print_json({"domain": domain, "device": device, "detached": True})
