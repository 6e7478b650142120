"""Commands on vCPUs: vcpu-list, vcpu-set, vcpu-pin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

from domains.control.cpus import mask_of, shown
from domains.control.protocol import ControlError, Exit
from domains.control.records import encode
from domains.control.sched_operations import VcpuList, VcpuListing, VcpuPin, VcpuSet, VcpuState
from domains.xenctl import machine
from domains.xenctl.options import DEFAULT, Argument, Domain, Json, Machine, Option
from domains.xenctl.output import print_json, print_warning, printable
from domains.xenctl.usage import checked

ALL: Final = "all"
AS_IT_IS: Final = "-"
Cpus = Annotated[str, Argument(help="CPUs as 0-3,5,^1 or all; - leaves them as they are.")]


def vcpu_list(
    domains: Annotated[list[str] | None, Argument(help="Only these domains.", metavar="[DOMAIN]...")] = None,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """List vCPUs: where each runs, for how long it ran, and which CPUs it may and should run on."""
    with machine.connect(name) as client:
        listing = client.call(VcpuList(tuple(domains or ())))
    if json:
        print_json(encode(listing))
        return
    print(f"{'Name':<32} {'ID':>5} {'VCPU':>5} {'CPU':>5} {'State':>5} {'Time(s)':>9} Affinity (Hard / Soft)")
    for vcpu in listing.vcpus:
        print(vcpu_line(vcpu, listing))


def vcpu_line(vcpu: VcpuState, listing: VcpuListing) -> str:
    """One vCPU, as xl prints it."""
    running, blocked = "r" if vcpu.running else "-", "b" if vcpu.blocked else "-"
    cpu, state = (vcpu.cpu, f"{running}{blocked}-") if vcpu.online else ("-", "--p")
    hard, soft = (shown(mask(cpus), listing.nr_cpus) for cpus in (vcpu.hard, vcpu.soft))
    named = printable(vcpu.name or "(null)")
    return f"{named:<32} {vcpu.domid:>5} {vcpu.vcpu:>5} {cpu:>5} {state:>5} {vcpu.cpu_time:>9.1f}  {hard} / {soft}"


def mask(cpus: Iterable[int]) -> int:
    """The set of these CPUs."""
    return sum(1 << cpu for cpu in cpus)


def vcpu_set(
    domain: Domain,
    count: Annotated[int, Argument(min=0, help="How many.", metavar="VCPUS")],
    ignore_host: Annotated[
        bool, Option("--ignore-host", "-i", help="Even more than the machine has CPUs.")
    ] = False,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Ask a domain to have so many of its vCPUs online."""
    with machine.connect(name) as client:
        client.call(VcpuSet(domain, count, ignore_host))
    if json:
        print_json({"domain": domain, "vcpus": count})


def vcpu_pin(
    domain: Domain,
    vcpu: Annotated[str, Argument(help="A number, or all.", metavar="VCPU|all")],
    hard: Annotated[str, Argument(help="CPUs it may run on, as 0-3,5,^1 or all; - leaves them.")],
    soft: Annotated[str, Argument(help="CPUs it should run on; - leaves them.")] = AS_IT_IS,
    force: Annotated[
        bool, Option("--force", "-f", help="End a pinning that the guest has asked for.")
    ] = False,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Say which CPUs a vCPU may, and should, run on."""
    wanted = pinning(domain, vcpu, hard, soft, force=force)
    with machine.connect(name) as client:
        warnings = client.call(wanted)
    for warning in warnings:
        print_warning(warning)
    if json:
        print_json({"domain": domain, "vcpu": wanted.vcpu, "warnings": encode(warnings)})


def pinning(domain: str, vcpu: str, hard: str, soft: str, *, force: bool) -> VcpuPin:
    """What is asked of the toolstack. Raises ControlError for what is no vCPU or no list of CPUs."""
    if vcpu != ALL and not (vcpu.isascii() and vcpu.isdecimal() and len(vcpu) < 10):
        raise ControlError(Exit.USAGE, f"'{vcpu}' is no vCPU; write a number, or all")
    number = None if vcpu == ALL else int(vcpu)
    return checked(lambda: VcpuPin(domain, number, cpus_or_none(hard), cpus_or_none(soft), force))


def cpus_or_none(text: str) -> str | None:
    """A list of CPUs; None: they stay as they are. Raises ValueError."""
    if text == AS_IT_IS:
        return None
    mask_of(text)
    return text
