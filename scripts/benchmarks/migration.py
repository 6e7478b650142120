"""A Linux of 128 MiB that moves between two machines, idle and while it dirties its memory at given rates.

What limits it is measured in the same turns: the same bytes over TCP (Linux's own, between two processes), and a copy of them in
memory. `migrate_down` is how long the domain stood still.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import Final, NamedTuple

import numpy as np

from domains.control.client import ControlClient
from domains.control.migration_operations import Migrate, Migrated
from domains.control.operations import Console, ConsoleInput
from scripts.benchmarks.figure import Figure, Sizes, Unavailable
from scripts.benchmarks.linux_network import LinuxNetwork
from scripts.benchmarks.machine import TIMEOUT, Machine
from scripts.benchmarks.x86.linux import GUESTS, UNPATCHED, watch

MIB: Final = 1 << 20
NAME: Final = "linux"
SHELL_IS_UP: Final = b"linux is up"
MOVES: Final = 8
"""Migrations for each load; 2 under --quick."""
LOADS: Final = {
    "": "",
    "_light": "while :; do dd if=/dev/zero of=/tmp/work bs=64k count=4 conv=notrunc; sleep 0.05; done",
    "_busy": "while :; do dd if=/dev/urandom of=/tmp/work bs=256k count=16 conv=notrunc; done",
}
"""By the end of a figure's name, what the guest does: nothing; a little now and then; to write 4 MiB over and over."""
MOVE_NAMES: Final = tuple(f"migrate_{what}{load}" for load in LOADS for what in ("total", "down"))


class Move(NamedTuple):
    """One migration, and what the same bytes took over TCP, and to be copied in memory, in seconds."""

    told: Migrated
    tcp: float
    copy: float


def migrate(sizes: Sizes) -> Iterator[Figure]:
    """Two figures for each of LOADS: s in all, against TCP; ms in which it stood still, against TCP for what was sent then."""
    if not (GUESTS / "vmlinuz").exists():
        raise Unavailable("needs scripts/fetch_guests")
    moves = 2 if sizes.rounds < MOVES else MOVES
    for load, command in LOADS.items():
        with LinuxNetwork() as network, Machine() as here, Machine() as there:
            boot(here, command)
            yield from figures(load, measured(here, there, network, moves), network.kind)


def boot(machine: Machine, command: str) -> None:
    """Linux, with a shell that goes on with `command`."""
    text = (
        f'name = "{NAME}"\nkernel = "{GUESTS}/vmlinuz"\nramdisk = "{GUESTS}/initramfs.img"\n'
        f'memory = 128\ncmdline = "console=hvc0 {UNPATCHED}"\n'
    )
    client = machine.client()
    watch(machine, text, SHELL_IS_UP)
    if command:
        type_into(client, f"mount -t tmpfs none /tmp; ({command}) > /dev/null 2>&1 &")


def type_into(client: ControlClient, line: str) -> None:
    """Type a line into the domain's console."""
    client.post(Console(NAME))
    client.post(ConsoleInput(line.encode() + b"\n"))
    time.sleep(1.0)


def measured(here: Machine, there: Machine, network: LinuxNetwork, moves: int) -> list[Move]:
    """It goes to and fro."""
    found = []
    for turn in range(moves):
        source, target = (here, there) if turn % 2 == 0 else (there, here)
        told = moved(source.control, Migrate(NAME, folder=str(target.folder)))
        mib = max(1, round(told.bytes / MIB))
        found.append(Move(told, network.ask("pour", mib) * told.bytes / MIB, copied(told.bytes)))
    return found


def moved(client: ControlClient, wanted: Migrate) -> Migrated:
    """The statement at the end of a migration."""
    request = client.post(wanted)
    while (reply := client.receive(TIMEOUT)) is not None:
        result = reply.result()
        if reply.id == request and not reply.more:
            assert isinstance(result, Migrated)
            return result
    raise TimeoutError(f"no answer within {TIMEOUT:g} s")


def copied(size: int) -> float:
    """Seconds to copy so many bytes in memory."""
    source = np.ones(size, np.uint8)
    target = np.zeros(size, np.uint8)
    start = time.perf_counter()
    np.copyto(target, source)
    return time.perf_counter() - start


def figures(load: str, moves: list[Move], network: str) -> Iterator[Figure]:
    """What there is to say of them."""
    told = [move.told for move in moves]
    details = {
        "MiB sent": median(one.bytes for one in told) / MIB,
        "rounds": median(sum(done.number is not None for done in one.rounds) for one in told),
        "ms to copy them in memory": median(move.copy for move in moves) * 1e3,
    }
    yield Figure(
        f"migrate_total{load}",
        median(one.total_seconds for one in told),
        "s",
        f"the same bytes over TCP, {network}",
        median(move.tcp for move in moves),
        median(move.told.total_seconds / move.tcp for move in moves),
        details,
    )
    last = [
        one.rounds[-1].bytes / max(one.bytes, 1) * move.tcp for one, move in zip(told, moves, strict=True)
    ]
    yield Figure(
        f"migrate_down{load}",
        median(one.downtime_seconds for one in told) * 1e3,
        "ms",
        "what was sent meanwhile over TCP",
        median(last) * 1e3,
        median(one.downtime_seconds / bytes_time for one, bytes_time in zip(told, last, strict=True)),
        {"pages sent meanwhile": median(one.rounds[-1].pages for one in told)},
    )
