"""Debian's Linux on both sides: how long it takes to its /init, and what a program of ours finds inside (measure.c)."""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from scripts.benchmarks.figure import Figure, Sizes, Unavailable
from scripts.benchmarks.peer.images import measuring_initramfs
from scripts.benchmarks.peer.life import of_pairs
from scripts.benchmarks.peer.sides import FEW, XEN, Sides, both
from scripts.benchmarks.x86 import linux

DONE: Final = "peer: done"
NOT_DONE: Final = "peer: failed"
DISK_MIB: Final = 64
NANOSECONDS: Final = 1e9
PV: Final = 'type = "pv"'
PVH: Final = 'type = "pvh"\nhap = 1'


@dataclass(frozen=True)
class Guest:
    """A Linux guest that is described the same on both sides, but for its devices."""

    task: str = ""
    kind: str = PV
    parameters: str = ""
    disk: bool = False
    vif: bool = False
    name: str = field(default="linux")

    def text(self, disk: str, vif: str) -> str:
        """Its description; `disk` and `vif` are those of one side."""
        task = f"task={self.task}" if self.task else ""
        return (
            f'name = "{self.name}"\n{self.kind}\nkernel = "{{guests}}/vmlinuz"\nramdisk = "{{guests}}/initramfs.img"\n'
            f'memory = {linux.MEMORY_MIB}\ncmdline = "console=hvc0 {self.parameters} {task}"\n'
            + (f"disk = ['{disk}']\n" if self.disk else "")
            + (f"vif = ['{vif}']\n" if self.vif else "")
        )

    def here(self, sides: Sides, until: str) -> tuple[float, str]:
        """Boot it on our machine, until it says this: the seconds, and what it said."""
        text = self.text(f"{sides.folder}/disk,raw,xvda,r", "").replace("{guests}", str(sides.folder))
        seconds, _, said = linux.watch(sides.machine, text, until.encode())
        return seconds, said.decode(errors="replace")

    def there(self, sides: Sides, until: str) -> tuple[float, str]:
        """The same on Xen."""
        path = sides.describe(self.name, self.text("phy:/dev/vda,xvda,r", "bridge=xenbr0"))[1]
        answer = sides.peer.run(f"xl create -c {shlex.quote(path)}", until)
        return answer.seconds, answer.output


@contextmanager
def sides(disk: bool = False) -> Iterator[Sides]:
    """Both sides with Debian's cloud kernel and measure.c; `disk`: and a disk of random bytes."""
    with tempfile.TemporaryDirectory(prefix="xl-") as name:
        folder = Path(name)
        (folder / "initramfs.img").write_bytes(measuring_initramfs(folder))
        image = folder / "disk"
        if disk:
            image.write_bytes(os.urandom(DISK_MIB << 20))
        guests = {"vmlinuz": linux.GUESTS / "vmlinuz", "initramfs.img": folder / "initramfs.img"}
        with both(guests, image if disk else None) as made:
            if disk:
                (made.folder / "disk").symlink_to(image)
            yield made


# --- to /init ----------------------------------------------------------------------------------------------


BOOTS: Final = {
    "peer_linux": Guest(),
    "peer_linux_noreplace": Guest(parameters=linux.UNPATCHED),
}


def boots(sizes: Sizes) -> Iterator[Figure]:
    """To /init as a PV guest, with and without LOCK prefixes rewritten; as a PVH guest beside QEMU without Xen."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    with sides() as made:
        for _ in range(min(FEW, max(1, sizes.rounds // 2))):
            for name, guest in BOOTS.items():
                ours = guest.here(made, linux.AT_INIT.decode())[0]
                made.machine.xenctl("destroy", guest.name)
                theirs = guest.there(made, linux.AT_INIT.decode())[0]
                made.peer.run(f"xl destroy {guest.name}")
                pairs.setdefault(name, []).append((ours, theirs))
            ours = Guest(kind=PVH).here(made, linux.AT_INIT.decode())[0]
            made.machine.xenctl("destroy", "linux")
            bare = linux.boot_in_qemu(made.folder / "initramfs.img")
            pairs.setdefault("peer_linux_pvh", []).append((ours, bare))
    for name, taken in pairs.items():
        beside = XEN if name in BOOTS else "QEMU, TCG, without Xen"
        yield of_pairs(name, "s", f"the same kernel, {beside}", taken)


# --- inside ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """One of measure.c's names, what its nanoseconds are turned into, and what of."""

    name: str
    unit: str
    amount: float
    rate: bool = False

    def value(self, nanoseconds: float) -> float:
        """In `unit`: how long `amount` of it takes, or how much of it comes a second."""
        return self.amount * (NANOSECONDS / nanoseconds if self.rate else nanoseconds)


INSIDE: Final = {
    "peer_page_fault": Measure("page_fault", "µs", 1e-3),
    "peer_fork": Measure("fork", "ms", 1e-6),
    "peer_alu": Measure("alu", "µs", 1e-3),
    "peer_sha256": Measure("sha256", "µs", 1e-3),
    "peer_double": Measure("double", "µs", 1e-3),
    "peer_disk_1m": Measure("disk_1m", "MiB/s", 1, rate=True),
    "peer_disk_4k": Measure("disk_4k", "reads/s", 1, rate=True),
    "peer_store_read": Measure("store_read", "ms", 1e-6),
    "peer_store_write": Measure("store_write", "ms", 1e-6),
}
NETWORK: Final = {
    "peer_tcp": Measure("tcp", "MiB/s", 1, rate=True),
    "peer_ping": Measure("ping", "ms", 1e-6),
}
Found = dict[str, list[float]]


def found_in(said: str) -> Found:
    """The numbers of each name that measure.c has told. Unavailable if it told that something failed."""
    failed = re.search(f"{NOT_DONE} (.*)", said)
    if failed:
        raise Unavailable(f"needs a guest in which nothing fails: {failed[1].strip()}")
    found: Found = {}
    for name, number in re.findall(r"^peer: (\w+) ([\d.]+)\s*$", said, re.MULTILINE):
        found.setdefault(name, []).append(float(number))
    return found


def inside(sizes: Sizes) -> Iterator[Figure]:
    """What page faults, processes, computing, a disk and xenstore cost in a PV guest."""
    guest = Guest("cpu,disk,store", parameters=linux.UNPATCHED, disk=True)
    turns: list[tuple[Found, Found]] = []
    with sides(disk=True) as made:
        for _ in range(min(FEW, max(1, sizes.rounds // 2))):
            ours = found_in(guest.here(made, DONE)[1])
            made.machine.xenctl("destroy", guest.name)
            theirs = found_in(guest.there(made, DONE)[1])
            made.peer.run(f"xl destroy {guest.name}")
            turns.append((ours, theirs))
    yield from figures(INSIDE, turns)


def network(sizes: Sizes) -> Iterator[Figure]:
    """TCP and ping between two PV guests."""
    server = Guest("serve", parameters=linux.UNPATCHED, vif=True, name="server")
    client = Guest("net", parameters=linux.UNPATCHED, vif=True, name="client")
    turns: list[tuple[Found, Found]] = []
    with sides() as made:
        for _ in range(min(FEW, max(1, sizes.rounds // 2))):
            server.here(made, DONE)
            ours = found_in(client.here(made, DONE)[1])
            made.machine.xenctl("destroy", client.name)
            made.machine.xenctl("destroy", server.name)
            server.there(made, DONE)
            theirs = found_in(client.there(made, DONE)[1])
            made.peer.run(f"xl destroy {client.name}; xl destroy {server.name}")
            turns.append((ours, theirs))
    yield from figures(NETWORK, turns)


def figures(measures: dict[str, Measure], turns: list[tuple[Found, Found]]) -> Iterator[Figure]:
    """A figure for each measure; each turn counts by its median."""
    for name, measure in measures.items():
        pairs = [
            (measure.value(median(ours[measure.name])), measure.value(median(theirs[measure.name])))
            for ours, theirs in turns
        ]
        yield of_pairs(name, measure.unit, f"the same guest, {XEN}", pairs)
