"""The network between two domains, against Linux's own between two namespaces, and what neighbours notice of an attack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import Final

from domains.control.operations import Pause, Unpause
from domains.control.vxlan_operations import Vxlan, VxlanAttach
from domains.guests import netattack
from scripts.benchmarks.figure import Figure, Sizes, compare
from scripts.benchmarks.linux_network import LinuxNetwork
from scripts.benchmarks.machine import Guest, Machine
from scripts.benchmarks.pipe import Pipe

MILLISECONDS: Final = 1e3
MICROSECONDS: Final = 1e6
MIB: Final = 1 << 20
TCP_PORT: Final = 5001
UDP_PORT: Final = 5002
SMALL: Final = 18
"""Bytes in a datagram that makes the smallest frame, 60 bytes."""
FRAME: Final = 60
SEGMENT: Final = 1448
"""Bytes of TCP's data in a frame of Ethernet's usual size."""
ENDS: Final = ("127.77.99.1", "127.77.99.2")
"""Of the two machines that VXLAN connects."""


def station(machine: Machine, number: int) -> Guest:
    """A domain with the address 10.0.0.`number`."""
    return machine.guest("Net", 16, f"vif = ['ip=10.0.0.{number}/24']")


def net(sizes: Sizes) -> Iterator[Figure]:
    """Throughput, packets and round trip between two Python domains on one bridge."""
    with Pipe() as pipe, LinuxNetwork() as linux, Machine() as machine:
        yield from between(station(machine, 1), station(machine, 2), "net", linux, pipe, sizes)


def vxlan(sizes: Sizes) -> Iterator[Figure]:
    """The same between Python domains of two machines, whose bridges VXLAN connects over the loopback interface."""
    with Pipe() as pipe, LinuxNetwork(vxlan=True) as linux, Machine(256) as one, Machine(256) as two:
        for machine, own, other in zip((one, two), ENDS, reversed(ENDS), strict=True):
            machine.control.call(VxlanAttach(Vxlan("xenbr0", 42, (other,), local=own)))
        yield from between(station(one, 1), station(two, 2), "vxlan", linux, pipe, sizes)


def between(
    here: Guest, there: Guest, name: str, linux: LinuxNetwork, pipe: Pipe, sizes: Sizes
) -> Iterator[Figure]:
    """Throughput, packets and round trip between two stations, beside Linux' own; the figures' names begin with `name`."""
    rounds = max(2, sizes.rounds // 4)
    there.ask("sink", TCP_PORT)
    there.ask("catch", UDP_PORT)
    mib = max(1, sizes.calls // 25)
    count = max(50, sizes.calls * 20)
    throughput = compare(
        f"{name}_throughput",
        "MiB/s",
        f"TCP over {linux.kind}",
        lambda: 1 / float(here.ask("pour", "10.0.0.2", TCP_PORT, mib)),
        lambda: 1 / float(linux.ask("pour", 8 * mib)),
        rounds,
    )
    yield with_pipe(throughput, pipe.messages_per_second(SEGMENT, 10 * count) * SEGMENT / MIB)
    packets = compare(
        f"{name}_pps",
        "packets/s",
        f"UDP over {linux.kind}",
        lambda: packets_per_second(here, there, count),
        lambda: float(linux.ask("throw", SMALL, 10 * count)),
        rounds,
    )
    yield with_pipe(packets, pipe.messages_per_second(FRAME, 10 * count))
    round_trip = compare(
        f"{name}_rtt",
        "µs",
        f"{linux.ping_kind} over {linux.kind}",
        lambda: float(here.ask("ping", "10.0.0.2", sizes.calls)),
        lambda: float(linux.ask("ping", sizes.calls)),
        rounds,
        MICROSECONDS,
    )
    yield with_pipe(round_trip, pipe.round_trip(sizes.calls) * MICROSECONDS)


def packets_per_second(sender: Guest, catcher: Guest, count: int) -> float:
    """How many of `count` small datagrams a second arrive at 10.0.0.2, the catcher."""
    sender.ask("throw", "10.0.0.2", UDP_PORT, SMALL, count)
    came, seconds = catcher.ask("caught", count)
    return float(came / seconds)


def with_pipe(figure: Figure, value: float) -> Figure:
    """The same with what a bare ZeroMQ pipe between two processes does beside it."""
    return replace(figure, details={**figure.details, "ZeroMQ pipe": value})


def net_fairness(sizes: Sizes) -> Iterator[Figure]:
    """The median ping between two domains while a third attacks, against the one while it is paused; the worst
    attack's.
    """
    rounds = max(2, sizes.rounds // 12)
    with Machine() as machine:
        here, _there = station(machine, 1), station(machine, 2)
        found: dict[str, list[tuple[float, float]]] = {}
        for attack in netattack.ATTACKS:
            attacker = machine.guest(f"{netattack.__name__}:NetAttack", 16, f"vif = ['']\nextra = '{attack}'")
            for _ in range(rounds):
                attacked = float(here.ask("ping", "10.0.0.2", sizes.calls))
                machine.control.call(Pause(str(attacker.domid)))
                idle = float(here.ask("ping", "10.0.0.2", sizes.calls))
                machine.control.call(Unpause(str(attacker.domid)))
                found.setdefault(attack, []).append((attacked, idle))
            attacker.destroy()
    ratios = {attack: median(a / b for a, b in pairs) for attack, pairs in found.items()}
    worst = max(ratios, key=ratios.__getitem__)
    yield Figure(
        "net_fairness",
        median(a for a, _ in found[worst]) * MILLISECONDS,
        "ms",
        f"the same ping while the attacker ({worst}) is paused",
        median(b for _, b in found[worst]) * MILLISECONDS,
        ratios[worst],
        ratios,
    )
