"""What a guest's own work costs under each way of paging, side by side in one machine, each beside the bare engine.

direct   a PV guest: Xen verifies each change of a page table, exceptions and system calls go through Xen
shadow   a PVH guest, hap = 0: the CPU walks tables that Xen derives from the guest's
nested   a PVH guest, hap = 1: the CPU walks the guest's tables and Xen's below them
bare     the PVH guest's image on the emulated CPU without Xen
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from scripts.benchmarks.figure import Figure, Sizes, compare
from scripts.benchmarks.machine import Guest, Machine
from scripts.benchmarks.x86.bare import Bare
from scripts.benchmarks.x86.inside import (
    HERE,
    INSTRUCTIONS_A_LOOP,
    LOOPS_A_CALL,
    description,
    folder_for_images,
)
from tests.guests.compiled import compile_guest, compile_pvh_guest

BARE: Final = "the same on the bare engine"
WAYS: Final = {"direct": "", "shadow": 'type = "pvh"\nhap = 0\n', "nested": 'type = "pvh"\nhap = 1\n'}
"""What a description says beyond the kernel's name."""
COSTS: Final = {
    "page_fault": "faults",
    "syscall": "syscalls",
    "pte_store": "stores",
    "context_switch": "switches",
}
"""The guests' commands, by figure."""
NAMES: Final = tuple(f"paging_{work}_{way}" for work in (*COSTS, "mips") for way in WAYS)


def paging(sizes: Sizes) -> Iterator[Figure]:
    """Every kind of work under every way of paging."""
    with images() as (pv, pvh), Machine() as machine, Bare(pvh) as bare:
        guests = {
            way: Guest(machine, description(pv if way == "direct" else pvh, name=way) + extra)
            for way, extra in WAYS.items()
        }
        for work, command in COSTS.items():
            for way, guest in guests.items():
                yield cost(f"paging_{work}_{way}", guest, bare, command, sizes)
        for way, guest in guests.items():
            yield speed(f"paging_mips_{way}", guest, bare, sizes)


def cost(name: str, guest: Guest, bare: Bare, command: str, sizes: Sizes) -> Figure:
    """What one repetition of a command takes."""
    calls = 2 * sizes.calls

    def seconds(who: Guest | Bare) -> float:
        return float(who.ask(command, calls)) / calls / 1e9

    return compare(name, "µs", BARE, lambda: seconds(guest), lambda: seconds(bare), sizes.rounds, 1e6)


def speed(name: str, guest: Guest, bare: Bare, sizes: Sizes) -> Figure:
    """Instructions a second of a loop."""
    loops = LOOPS_A_CALL * sizes.calls

    def mips(who: Guest | Bare) -> float:
        return INSTRUCTIONS_A_LOOP * loops * 1e3 / float(who.ask("loop", loops))

    return compare(name, "MIPS", BARE, lambda: mips(guest), lambda: mips(bare), sizes.rounds)


@contextmanager
def images() -> Iterator[tuple[Path, Path]]:
    """The PV image and the PVH one. Unavailable as `folder_for_images` is."""
    with folder_for_images() as folder:
        yield (
            compile_guest(HERE / "guest.c", folder / "guest"),
            compile_pvh_guest(folder / "pvh", HERE / "pvh_start.S", HERE / "pvh.c"),
        )
