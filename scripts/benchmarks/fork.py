"""How long a fork of a Linux that has booted takes: from the request until its shell has answered what is typed.

Measured beside a copy of as many bytes into memory that is new, which is the least that a fork does, and beside a boot of the
same Linux up to the same prompt. The CPU time of all the machine's processes is told, too: a busy host adds little to it.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import numpy as np

from domains.control.address import MachineAddress
from domains.control.client import ControlClient
from domains.control.operations import Console, ConsoleInput
from domains.control.snapshot_operations import Fork, TakeSnapshot
from domains.xenctl.folder import supervisor_pid
from scripts.benchmarks.figure import Figure, Sizes, Unavailable
from scripts.benchmarks.machine import TIMEOUT, Machine
from scripts.benchmarks.x86.linux import GUESTS, UNPATCHED, watch

MIB: Final = 1 << 20
SNAPSHOT: Final = "ready"
PROMPT: Final = b"built-in shell"
TYPED, ANSWER = b"echo a$((1+1))b\n", b"a2b"
FORKS: Final = 12
"""What is measured; 2 under --quick."""
KINDS: Final = {"fork": "pv", "fork_pvh": "pvh"}


class Turn(NamedTuple):
    """One fork: seconds until it was made, until it answered, of CPU time; and what the copy took."""

    made: float
    answered: float
    cpu: float
    copy: float


def fork(sizes: Sizes) -> Iterator[Figure]:
    """One figure for each of KINDS, in ms."""
    if not (GUESTS / "vmlinuz").exists():
        raise Unavailable("needs scripts/fetch_guests")
    turns = min(FORKS, sizes.rounds)
    for name, kind in KINDS.items():
        with Machine(memory_mib=1024) as machine:
            boot, domid, _ = watch(machine, description(kind), PROMPT)
            kept = machine.control.call(TakeSnapshot(str(domid), SNAPSHOT), timeout=TIMEOUT).memory_bytes
            machine.destroy(domid)
            one_fork(machine)
            done = [one_fork(machine)._replace(copy=copied(kept)) for _ in range(turns)]
        yield Figure(
            name,
            median(turn.answered for turn in done) * 1e3,
            "ms",
            "the same bytes copied into new memory",
            median(turn.copy for turn in done) * 1e3,
            median(turn.answered / turn.copy for turn in done),
            {
                "ms until it was made": median(turn.made for turn in done) * 1e3,
                "ms of CPU time, all processes": median(turn.cpu for turn in done) * 1e3,
                "MiB kept": kept / MIB,
                "ms to boot it": boot * 1e3,
            },
        )


def description(kind: str) -> str:
    """Of Linux, whose /init ends in a shell."""
    return (
        f'name = "linux"\ntype = "{kind}"\nkernel = "{GUESTS}/vmlinuz"\nramdisk = "{GUESTS}/initramfs.img"\n'
        f'memory = 128\ncmdline = "console=hvc0 {UNPATCHED}"\n'
    )


def one_fork(machine: Machine) -> Turn:
    """Made, asked, and destroyed."""
    with ControlClient(MachineAddress.in_folder(machine.folder), TIMEOUT) as client:
        before, start = cpu_seconds(machine), time.perf_counter()
        made = client.call(Fork(SNAPSHOT), timeout=TIMEOUT)
        told = time.perf_counter() - start
        client.post(Console(str(made.domid)))
        client.post(ConsoleInput(TYPED))
        said = b""
        while ANSWER not in said:
            reply = client.receive(TIMEOUT)
            if reply is None:
                raise TimeoutError(f"the fork did not answer, but said {said.decode(errors='replace')}")
            result = reply.result()
            said += result if isinstance(result, bytes) else b""
        answered, cpu = time.perf_counter() - start, cpu_seconds(machine) - before
    machine.destroy(made.domid)
    return Turn(told, answered, cpu, 0.0)


def cpu_seconds(machine: Machine) -> float:
    """What all processes of the machine that there are have used."""
    supervisor, total = supervisor_pid(machine.folder), 0
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if (
                entry.name.isdecimal()
                and f" {supervisor} " in (entry / "stat").read_text().rpartition(")")[2][:20]
            ):
                total += sum(
                    int((task / "schedstat").read_text().split()[0]) for task in (entry / "task").iterdir()
                )
    return total / 1e9


def copied(size: int) -> float:
    """Seconds to copy so many bytes into a memfd that has none yet."""
    fd = os.memfd_create("copy")
    os.ftruncate(fd, size)
    source = np.ones(size, np.uint8)
    with mmap.mmap(fd, size) as mapped:
        start = time.perf_counter()
        mapped[:] = source.data
        seconds = time.perf_counter() - start
    os.close(fd)
    return seconds
