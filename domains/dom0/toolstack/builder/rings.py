"""What builders of all kinds of domains do with the new domain's pages: write them, and let Dom0 map its two rings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.public.grant_table import (
    GNTTAB_RESERVED_CONSOLE,
    GNTTAB_RESERVED_XENSTORE,
    GTF_permit_access,
    grant_entry_v1,
)
from hypervisor.public.types import PAGE_SIZE, DomId, Mfn, Port

DOM0: Final = DomId(0)
PAGES_AT_ONCE: Final = 256
"""Foreign frames mapped at a time."""


@dataclass(frozen=True, slots=True)
class Built:
    """What the store and the consoles must know of a built domain. Frames are machine frames of a PV domain's, and guest
    frames of a translated one's.
    """

    store_mfn: Mfn
    store_port: Port
    console_mfn: Mfn
    console_port: Port


def write_pages(kernel: Kernel, domid: DomId, frames: Sequence[Mfn], data: memoryview) -> Task[None]:
    """Put whole pages into frames of the domain through a foreign mapping, PAGES_AT_ONCE of them in one turn."""
    for first in range(0, len(frames), PAGES_AT_ONCE):
        part = frames[first : first + PAGES_AT_ONCE]
        va = kernel.memory.map_frames(domid, part)
        try:
            kernel.cpu.store(va, data[first * PAGE_SIZE : (first + len(part)) * PAGE_SIZE])
        finally:
            kernel.memory.unmap(va)
        yield NEXT_TURN


def seed_grants(kernel: Kernel, domid: DomId, table: Mfn, store: Mfn, console: Mfn) -> None:
    """Let Dom0 map the two rings by grant, as a back end that is not privileged would; `table`: the grant table's frame."""
    va = kernel.memory.map_frames(domid, [table])
    try:
        for ref, frame in ((GNTTAB_RESERVED_CONSOLE, console), (GNTTAB_RESERVED_XENSTORE, store)):
            entry = grant_entry_v1(flags=GTF_permit_access, domid=DOM0, frame=frame)
            kernel.cpu.store(va + ref * grant_entry_v1.sizeof, entry.pack())
    finally:
        kernel.memory.unmap(va)
