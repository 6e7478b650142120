"""Commands on domains that run: rename, config-update, sysrq, trigger, dump-core."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from domains.control.domain_operations import ConfigUpdate, DumpCore, Rename, Sysrq, Trigger
from domains.control.records import encode
from domains.xenctl import machine
from domains.xenctl.domain_commands import File, Overrides, described
from domains.xenctl.options import DEFAULT, Argument, Domain, Json, Machine, Option
from domains.xenctl.output import print_json
from domains.xenctl.usage import checked


def rename(
    domain: Domain,
    new_name: Annotated[str, Argument(help="The name it shall have.", metavar="NEW_NAME")],
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Give a domain another name."""
    wanted = checked(lambda: Rename(domain, new_name))
    with machine.connect(name) as client:
        renamed = client.call(wanted)
    if json:
        print_json(encode(renamed))


def config_update(
    domain: Domain,
    file: File = None,
    overrides: Overrides = None,
    defconfig: Annotated[
        Path | None, Option("--defconfig", "-f", help="The description, in place of FILE.", metavar="FILE")
    ] = None,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Have a domain made by another description when it restarts."""
    config = described(file, overrides or [], defconfig)
    with machine.connect(name) as client:
        client.call(ConfigUpdate(domain, config))
    if json:
        print_json({"domain": domain, "done": "config-update"})


def sysrq(
    domain: Domain,
    key: Annotated[str, Argument(help="A letter or digit; h: the guest lists them.", metavar="KEY")],
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Press a key of a Linux guest's magic SysRq."""
    wanted = checked(lambda: Sysrq(domain, key))
    with machine.connect(name) as client:
        client.call(wanted)
    if json:
        print_json({"domain": domain, "key": key, "done": "sysrq"})


def trigger(
    domain: Domain,
    what: Annotated[str, Argument(help="nmi; others are refused.", metavar="nmi")],
    vcpu: Annotated[int, Argument(help="Which vCPU.", metavar="[VCPU]", min=0)] = 0,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Send a domain's vCPU a non-maskable interrupt."""
    with machine.connect(name) as client:
        client.call(Trigger(domain, what, vcpu))
    if json:
        print_json({"domain": domain, "trigger": what, "vcpu": vcpu, "done": "trigger"})


def dump_core(
    domain: Domain,
    file: Annotated[Path, Argument(help="Where to, on the host.", metavar="FILE")],
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Write a domain's memory and registers to a file, as Xen's dump-core format; crash(8) reads it."""
    wanted = checked(lambda: DumpCore(domain, str(file.absolute())))
    with machine.connect(name) as client:
        dumped = client.call(wanted, timeout=math.inf)
    if json:
        print_json({"file": str(file), **encode(dumped)})
