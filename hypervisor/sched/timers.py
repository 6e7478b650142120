"""Timers of the core, as data: a kind, whose it is, and when it is due. What happens then is the caller's table.

    key (kind, domid, index) ──► deadline         one timer a key: setting it again replaces it
    heap of (deadline, number, key)               an entry whose key has another deadline by now is stale

Stale entries are dropped when they come up, and all together when they are the greater part of the heap: a guest that sets
its timer again and again holds no memory. Deadlines are ns of system time, any size of integer.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

SPARE_ENTRIES: Final = 64
"""How many stale entries the heap may hold whatever its size."""


def s_time(word: int) -> int:
    """A guest's 64-bit word as Xen's s_time_t: ns of system time, signed. What has its top bit set is long past."""
    return word - (1 << 64) if word >> 63 else word


class TimerKind(IntEnum):
    """What a timer is for. `index` of its key: the vCPU, or what is said here."""

    POLL = 1  # SCHEDOP_poll's timeout
    SINGLESHOT = 2  # set_timer_op and VCPUOP_set_singleshot_timer, which are one timer on Xen too
    PERIODIC = 3  # VCPUOP_set_periodic_timer
    WATCHDOG = 4  # SCHEDOP_watchdog; index: the watchdog's id
    DEATH_RETRY = 5  # a dead domain's frames are still held by others; index: 0


TimerKey = tuple[TimerKind, int, int]
"""Kind, domid, index: there is at most one timer of each key."""


@dataclass(frozen=True)
class Timer:
    """A timer that is set, or that was due. `deadline`: ns of system time."""

    kind: TimerKind
    domid: int
    index: int
    deadline: int


class Timers:
    """The timers that are set. It calls nobody: `due` says which are due."""

    def __init__(self) -> None:
        self._set: dict[TimerKey, tuple[int, int]] = {}
        self._heap: list[tuple[int, int, TimerKey]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._set)

    def set(self, kind: TimerKind, domid: int, index: int, deadline: int) -> None:
        """Set the timer of this key to `deadline`; the one that was set before is forgotten."""
        key = (kind, domid, index)
        self._number += 1
        self._set[key] = deadline, self._number
        heapq.heappush(self._heap, (deadline, self._number, key))
        if len(self._heap) > 2 * len(self._set) + SPARE_ENTRIES:
            self._drop_stale()

    def stop(self, kind: TimerKind, domid: int, index: int) -> None:
        """Forget the timer of this key, if it is set."""
        self._set.pop((kind, domid, index), None)

    def stop_domain(self, domid: int) -> None:
        """Forget every timer of a domain."""
        for key in [key for key in self._set if key[1] == domid]:
            del self._set[key]

    def deadline(self, kind: TimerKind, domid: int, index: int) -> int | None:
        """When the timer of this key is due; None if it is not set."""
        found = self._set.get((kind, domid, index))
        return None if found is None else found[0]

    def next_deadline(self) -> int | None:
        """When the first timer is due; None if none is set."""
        heap = self._heap
        while heap and self._is_stale(heap[0]):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now: int) -> Iterator[Timer]:
        """The timers whose deadline has come, in the order of their deadlines; each is forgotten when it is handed out.

        What is done with one may stop others of them. What is set meanwhile is due at a later call, even if its deadline has
        come already.
        """
        last = self._number
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            _, number, key = self._heap[0]
            if number > last:
                return
            heapq.heappop(self._heap)
            del self._set[key]
            yield Timer(*key, deadline)

    def snapshot(self) -> list[Timer]:
        """All timers, in the order in which they would be due."""
        in_order = sorted((deadline, number, key) for key, (deadline, number) in self._set.items())
        return [Timer(*key, deadline) for deadline, _, key in in_order]

    def restore(self, record: list[Timer]) -> None:
        """Have exactly the timers of a snapshot."""
        self._set.clear()
        self._heap.clear()
        for timer in record:
            self.set(timer.kind, timer.domid, timer.index, timer.deadline)

    def _is_stale(self, entry: tuple[int, int, TimerKey]) -> bool:
        deadline, number, key = entry
        return self._set.get(key) != (deadline, number)

    def _drop_stale(self) -> None:
        self._heap = [(deadline, number, key) for key, (deadline, number) in self._set.items()]
        heapq.heapify(self._heap)
