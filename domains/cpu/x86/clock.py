"""Time as one vCPU sees it: RDTSC, and the vcpu_time_info that turns it into system time.

The guest's TSC ticks at 1 GHz and reads 0 when the machine starts, so TSC and system time are the same number; RDTSC is a hook,
which keeps the two consistent whatever the host's counter does.
"""

import time
from typing import Final

from hypervisor.machine.memory import MachineMemory
from hypervisor.public.xen import XEN_PVCLOCK_TSC_STABLE_BIT, vcpu_info, vcpu_time_info

TSC_HZ: Final = 1_000_000_000
TSC_SHIFT: Final = 1
TSC_TO_SYSTEM_MUL: Final = 1 << 31
"""ns = (ticks << 1) * 2^31 >> 32"""


class VcpuClock:
    """`epoch`: CLOCK_MONOTONIC (ns) at system time 0, the same in core and processes."""

    def __init__(self, memory: MachineMemory, epoch: int) -> None:
        self._memory = memory
        self._epoch = epoch

    def now(self) -> int:
        """System time in ns, which is also the TSC."""
        return time.monotonic_ns() - self._epoch

    def publish(self, vcpu_info_maddr: int) -> None:
        """Write the vCPU's time info; the version is even again when the rest is there."""
        at = vcpu_info_maddr + vcpu_info.offsetof("time")
        version = vcpu_time_info.unpack(self._memory.read(at, vcpu_time_info.sizeof)).version
        now = self.now()
        record = vcpu_time_info(
            version=(version | 1) & 0xFFFFFFFF,
            tsc_timestamp=now,
            system_time=now,
            tsc_to_system_mul=TSC_TO_SYSTEM_MUL,
            tsc_shift=TSC_SHIFT,
            flags=int(XEN_PVCLOCK_TSC_STABLE_BIT),
        )
        self._memory.write(at, record.pack())
        record.version = (record.version + 1) & 0xFFFFFFFF
        self._memory.write(at, record.pack_field("version"))
