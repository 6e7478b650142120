"""The place of a trace point: where the six of them lead, which is nowhere unless somebody listens.

A trace point reads `if trace.sink is not None: trace.record(EVENT, number…)`: without a sink it costs one look. A record is Xen's
t_rec, with the time, in ns:

    bit 0        28          31      then u32 each
    | event      | n numbers | 1 |   time, low half | high half | n numbers, 7 at most

Where they are: a hypercall begins (hypercalls/dispatch.py), a port is raised (domain/hypervisor.py), a frame gets another type
(mm/page_types.py), a vCPU gets or leaves a CPU (sched/slices.py), a trap is delivered (cpu/python_cpu.py, cpu/x86/pv/bounce.py).

Source: Xen public/trace.h, struct t_rec.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Final

from hypervisor.public.types import U32

MAX_NUMBERS: Final = 7
_EVENT: Final = (1 << 28) - 1


class Trace:
    """One process's. `sink` takes each record, as bytes; None: nobody listens. `clock` gives ns."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.sink: Callable[[bytes], None] | None = None
        self._clock = clock

    def record(self, event: int, *numbers: int) -> None:
        """Tell the sink of one event, whose numbers are cut to 32 bits."""
        if self.sink is None:
            return
        now = self._clock()
        head = event & _EVENT | len(numbers) << 28 | 1 << 31
        words = (head, now & U32, now >> 32 & U32, *(number & U32 for number in numbers))
        self.sink(struct.pack(f"<{len(words)}I", *words))
