"""The Python CPU of a machine that repeats itself: it counts what its guest does, and stops when its budget is used up.

Counted is each load, store and view, each hypercall, and each look at the clock. What a guest does in Python between two of them
takes no time; a guest that does nothing else for two minutes of the host's time is given up by the core.

A guest may use Python's own `random` and `time` as any program does: the numbers follow from the seed, the clocks show virtual
time. What else shows the host through (its other clocks, its files, the addresses of objects), repeats nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from domains.cpu.gate import Gate
from domains.cpu.meter import Meter
from domains.cpu.python_cpu import PythonCpu
from hypervisor.machine.clock import VIRTUAL_BOOT_WALL_NS

NANOSECONDS: Final = 1_000_000_000


class CountingCpu(PythonCpu):
    """`PythonCpu`, whose time is its work. No signal interrupts it."""

    def __init__(self, gate: Gate, meter: Meter, vcpu: int = 0) -> None:
        super().__init__(gate, vcpu)
        self._meter = meter
        random.seed(gate.mailbox.timesheet.seed)
        self._replace_clocks()

    def _replace_clocks(self) -> None:
        def system_time() -> int:
            return self.rdtsc() - self._meter.tsc_at_start

        def wall_clock() -> int:
            return VIRTUAL_BOOT_WALL_NS + system_time()

        for name, clock in (("time", wall_clock), ("monotonic", system_time), ("perf_counter", system_time)):
            setattr(time, f"{name}_ns", clock)
            setattr(time, name, partial(_in_seconds, clock))

    def _count(self) -> None:
        meter = self._meter
        meter.count()
        if meter.is_spent and self.started and not (self._in_xen or self.gate.busy):
            self._in_xen = True
            try:
                self.apply(self.gate.stopped(self.vcpu)[1])
            finally:
                self._in_xen = False
            self.interrupt()

    def load(self, va: int, size: int) -> bytes:
        """See `PythonMemory`."""
        self._count()
        return super().load(va, size)

    def store(self, va: int, data: bytes | bytearray | memoryview) -> None:
        """See `PythonMemory`."""
        self._count()
        super().store(va, data)

    def view(self, va: int, size: int, write: bool = False) -> memoryview:
        """See `PythonMemory`."""
        self._count()
        return super().view(va, size, write)

    def hypercall(self, nr: int, *args: int) -> int:
        """See `PythonCpu`."""
        self._count()
        return super().hypercall(nr, *args)

    def rdtsc(self) -> int:
        """The time-stamp counter: nanoseconds of virtual time."""
        self._count()
        return self._meter.tsc()


def _in_seconds(clock: Callable[[], int]) -> float:
    return clock() / NANOSECONDS
