"""Reading a disk through the split driver, against reading the image's file."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

from domains.control.operations import Pause, Unpause
from scripts.benchmarks.figure import Figure, Sizes, compare, per_call
from scripts.benchmarks.machine import Machine

MIB: Final = 1 << 20
SMALL: Final = 4096
IMAGE_MIB: Final = 64
IN_FLIGHT: Final = 3
"""Reads of 1 MiB on their way at once, as an operating system's read-ahead would have them."""


def block(sizes: Sizes) -> Iterator[Figure]:
    """Reads by a Python guest: 1 MiB in sequence with IN_FLIGHT on their way, then 4 KiB anywhere, one by one."""
    with tempfile.TemporaryDirectory(prefix="xd-") as folder, Machine() as machine:
        path = Path(folder) / "disk"
        with path.open("wb") as image:
            for _ in range(IMAGE_MIB):
                image.write(os.urandom(MIB))
        guest = machine.guest("Disk", 32, f"disk = ['{path},raw,xvda,r']")
        fd = os.open(path, os.O_RDONLY)
        offsets = iter(range(1 << 62))

        def read_on() -> bytes:
            return os.pread(fd, MIB, next(offsets) % IMAGE_MIB * MIB)

        def read_anywhere() -> bytes:
            return os.pread(fd, SMALL, random.randrange(IMAGE_MIB * MIB // SMALL) * SMALL)

        few = max(2, sizes.calls // 5)
        try:
            streamed = compare(
                "block_read",
                "MiB/s",
                "pread of the same file",
                lambda: 1 / float(guest.ask("streamed", sizes.calls, IN_FLIGHT)),
                lambda: 1 / per_call(read_on, few),
                sizes.rounds,
            )
            yield replace(
                streamed, details={"one at a time": 1 / float(guest.ask("sequential", sizes.calls))}
            )
            yield compare(
                "block_iops",
                "reads/s",
                "pread of the same file",
                lambda: 1 / float(guest.ask("scattered", sizes.calls)),
                lambda: 1 / per_call(read_anywhere, sizes.calls),
                sizes.rounds,
            )
        finally:
            os.close(fd)


def fairness(sizes: Sizes) -> Iterator[Figure]:
    """Reads of 4 KiB by one guest while another writes and flushes all the time, against the same while that is paused."""
    with tempfile.TemporaryDirectory(prefix="xd-") as folder, Machine() as machine:
        images = [Path(folder) / name for name in ("read", "written")]
        for image in images:
            image.write_bytes(os.urandom(MIB))
        reader = machine.guest("Disk", 32, f"disk = ['{images[0]},raw,xvda,r']")
        writer = machine.guest("Disk", 32, f"disk = ['{images[1]},raw,xvda,w']")
        writer.tell("flushed", 1 << 30)
        pairs = []
        for _ in range(sizes.rounds):
            beside = 1 / float(reader.ask("scattered", sizes.calls))
            machine.control.call(Pause(str(writer.domid)))
            alone = 1 / float(reader.ask("scattered", sizes.calls))
            machine.control.call(Unpause(str(writer.domid)))
            pairs.append((beside, alone))
    beside, alone = (median(values) for values in zip(*pairs, strict=True))
    ratio = median(beside / alone for beside, alone in pairs)
    yield Figure(
        "block_fairness", beside, "reads/s", "the same while the other guest is paused", alone, ratio
    )
