"""The rows of the table, in its order: who measures each, and what it is to be beside Xen in QEMU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from scripts.benchmarks.figure import Figure, Goal, Sizes
from scripts.benchmarks.peer import life, linux

FAMILIES: Final[dict[str, Callable[[Sizes], Iterator[Figure]]]] = {
    "peer_start": life.whole,
    "peer_memory": life.whole,
    "peer_run": life.life,
    "peer_create": life.life,
    "peer_list": life.life,
    "peer_destroy": life.life,
    "peer_linux": linux.boots,
    "peer_linux_noreplace": linux.boots,
    "peer_linux_pvh": linux.boots,
    **dict.fromkeys(linux.INSIDE, linux.inside),
    **dict.fromkeys(linux.NETWORK, linux.network),
}

GOALS: Final = {
    "peer_start": Goal("ratio", 1),
    "peer_memory": Goal("ratio", 1),
    "peer_run": Goal("ratio", 0.3),
    "peer_create": Goal("ratio", 0.5),
    "peer_list": Goal("ratio", 0.5),
    "peer_destroy": Goal("ratio", 0.5),
    "peer_linux": Goal("ratio", 0.9),
    "peer_linux_noreplace": Goal("ratio", 0.9),
    "peer_linux_pvh": Goal("ratio", 1.5),
    "peer_page_fault": Goal("ratio", 1.5),
    "peer_fork": Goal("ratio", 1.5),
    "peer_alu": Goal("ratio", 1.2),
    "peer_sha256": Goal("ratio", 1.2),
    "peer_double": Goal("ratio", 1.2),
    "peer_disk_1m": Goal("ratio", 1, at_least=True),
    "peer_disk_4k": Goal("ratio", 10, at_least=True),
    "peer_store_read": Goal("ratio", 3),
    "peer_store_write": Goal("ratio", 3),
    "peer_tcp": Goal("ratio", 1.5, at_least=True),
    "peer_ping": Goal("ratio", 1),
}
