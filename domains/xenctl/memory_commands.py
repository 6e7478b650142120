"""Commands on domains' memory: mem-set, mem-max, claims."""

from __future__ import annotations

from typing import Annotated

from domains.control.memory_operations import MemMax, MemSet, kib_of
from domains.control.operations import List
from domains.control.records import encode
from domains.xenctl import machine
from domains.xenctl.options import DEFAULT, Argument, Domain, Json, Machine
from domains.xenctl.output import print_json, printable
from domains.xenctl.usage import checked

Amount = Annotated[
    str, Argument(help="MiB, or a number with b, k, m, g or t behind it: 512, 1g.", metavar="MEM")
]


def mem_set(domain: Domain, memory: Amount, name: Machine = DEFAULT, json: Json = False) -> None:
    """Tell a domain to have so much memory; it gives back the rest, or takes more, in its own time."""
    act(name, MemSet(domain, kib(memory)), json=json)


def mem_max(domain: Domain, memory: Amount, name: Machine = DEFAULT, json: Json = False) -> None:
    """Say how much memory a domain may be told to have; 'maxmem' of its description says it first."""
    act(name, MemMax(domain, kib(memory)), json=json)


def kib(text: str) -> int:
    """An amount of memory. Raises ControlError."""
    return checked(lambda: kib_of(text))


def act(name: str, wanted: MemSet | MemMax, *, json: bool) -> None:
    """One of these operations."""
    with machine.connect(name) as client:
        limits = client.call(wanted)
    if json:
        print_json(encode(limits))


def claims(name: Machine = DEFAULT, json: Json = False) -> None:
    """List domains with the memory that is claimed for them and not theirs yet, as xl does: none, for nothing is claimed here."""
    with machine.connect(name) as client:
        domains = client.call(List())
    if json:
        shown = ("domid", "name", "memory_kib")
        print_json([{one: encode(about)[one] for one in shown} | {"claimed_kib": 0} for about in domains])
        return
    print(f"{'Name':<40} {'ID':>5} {'Mem':>5} {'VCPUs':>5}\t{'State':<5}\t{'Time(s)'}  Claimed")
    for about in domains:
        named = printable(about.name or "(null)")
        numbers = f"{about.domid:>5} {about.memory_kib >> 10:>5} {about.vcpus:>5}"
        print(f"{named:<40} {numbers}     {about.state}  {about.cpu_time:>8.1f} {0:>5}")
