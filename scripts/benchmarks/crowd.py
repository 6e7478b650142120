"""What a user waits for in a machine with many idle domains, against the same in one without them."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypervisor.public.io.xs_wire import xsd_sockmsg
from scripts.benchmarks.block import MIB
from scripts.benchmarks.figure import Figure, Sizes, compare, per_call
from scripts.benchmarks.hypercalls import MICROSECONDS
from scripts.benchmarks.life import MILLISECONDS
from scripts.benchmarks.machine import IDLE, Guest, Machine, description
from scripts.benchmarks.net import station
from scripts.benchmarks.store import REPLY, REQUESTS
from scripts.benchmarks.x86.inside import description as of_x86
from scripts.benchmarks.x86.inside import images

ALONE: Final = "the same in a machine without idle domains"


class Place:
    """A machine with `idle` domains, and guests in it to be measured."""

    def __init__(self, stack: ExitStack, image: Path, disk: Path, idle: int) -> None:
        self.machine = stack.enter_context(Machine())
        for _ in range(idle):
            self.machine.create(description(IDLE, 8))
        self.caller = self.machine.guest("Hypercalls")
        self.reader = self.machine.guest("Disk", 32, f"disk = ['{disk},raw,xvda,r']")
        self.x86 = Guest(self.machine, of_x86(image))
        self.here, _ = station(self.machine, 1), station(self.machine, 2)
        self._client = stack.enter_context(socket.socket(socket.AF_UNIX))
        self._client.connect(str(self.machine.folder / "xenstored"))
        self._file = disk.with_name(f"idle-{idle}")
        self._file.write_text(description(IDLE, 8, name="typed"))

    def store_read(self) -> None:
        """One request to the store, and its answer."""
        kind, payload = REQUESTS["store_read"]
        self._client.send(xsd_sockmsg(type=kind, len=len(payload)).pack() + payload)
        self._client.recv(REPLY)

    def create(self) -> float:
        """`xenctl create` as typed, s."""
        return self.machine.xenctl("create", str(self._file))

    def destroy(self) -> float:
        """`xenctl destroy` of that domain, s."""
        return self.machine.xenctl("destroy", "typed")


@dataclass(frozen=True)
class Work:
    """What is done in a Place so many times, and what one of it takes there, s; `as_typed`: it is a whole command, done once."""

    unit: str
    seconds: Callable[[Place, int], float]
    as_typed: bool = False


def created(place: Place, _calls: int) -> float:
    """`create`, with the domain destroyed again."""
    seconds = place.create()
    place.destroy()
    return seconds


def destroyed(place: Place, _calls: int) -> float:
    """`destroy`, of a domain that was made for it."""
    place.create()
    return place.destroy()


WORK: Final = {
    "crowd_hypercall": Work("µs", lambda place, calls: float(place.caller.ask("null_calls", calls))),
    "crowd_page_fault": Work(
        "µs", lambda place, calls: float(place.x86.ask("faults", 2 * calls)) / (2 * calls) / 1e9
    ),
    "crowd_store_read": Work("µs", lambda place, calls: per_call(place.store_read, calls)),
    "crowd_disk_4k": Work("µs", lambda place, calls: float(place.reader.ask("scattered", calls))),
    "crowd_ping": Work("µs", lambda place, calls: float(place.here.ask("ping", "10.0.0.2", calls))),
    "crowd_create": Work("ms", created, as_typed=True),
    "crowd_destroy": Work("ms", destroyed, as_typed=True),
    "crowd_list": Work("ms", lambda place, _calls: place.machine.xenctl("list"), as_typed=True),
}
"""By figure."""


def crowd(sizes: Sizes) -> Iterator[Figure]:
    """Each of WORK. Both places take turns."""
    with (
        images() as (image, _),
        tempfile.TemporaryDirectory(prefix="xd-") as folder,
        ExitStack() as stack,
    ):
        disk = Path(folder) / "disk"
        disk.write_bytes(os.urandom(MIB))
        crowded, alone = (Place(stack, image, disk, idle) for idle in (sizes.domains, 0))
        for name, work in WORK.items():
            rounds = max(2, sizes.rounds // 4) if work.as_typed else sizes.rounds
            yield compare(
                name,
                work.unit,
                ALONE,
                lambda work=work: work.seconds(crowded, sizes.calls),  # type: ignore[misc]
                lambda work=work: work.seconds(alone, sizes.calls),  # type: ignore[misc]
                rounds,
                MILLISECONDS if work.as_typed else MICROSECONDS,
            )
