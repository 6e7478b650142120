"""The page that Xen and this domain share, as the kernel has it mapped: event words, clock, wall clock.

2-level event channels: bit p of evtchn_pending is set when an event came for port p; `upcall` takes them in
the order of ports. Source: Xen public/xen.h, struct shared_info.
"""

from __future__ import annotations

from typing import Final

from domains.cpu.python_cpu import PythonCpu
from hypervisor.public.types import PAGE_SIZE, Port, VAddr
from hypervisor.public.xen import shared_info, vcpu_info, vcpu_time_info

_PENDING: Final = shared_info.offsetof("evtchn_pending") // 8
_MASK: Final = shared_info.offsetof("evtchn_mask") // 8
_UPCALL_PENDING: Final = vcpu_info.offsetof("evtchn_upcall_pending")
_UPCALL_MASK: Final = vcpu_info.offsetof("evtchn_upcall_mask")
_SEL: Final = vcpu_info.offsetof("evtchn_pending_sel") // 8
_CR2: Final = vcpu_info.offsetof("arch.cr2") // 8
_TIME: Final = vcpu_info.offsetof("time")
_VERSION: Final = (_TIME + vcpu_time_info.offsetof("version")) // 4
_NR_WORDS: Final = 64
NANOSECONDS: Final = 1_000_000_000


class SharedInfo:
    """`va`: where the page is mapped, writable. vCPU 0's vcpu_info is the first thing in it."""

    def __init__(self, cpu: PythonCpu, va: VAddr) -> None:
        self._cpu = cpu
        self._octets = cpu.view(va, PAGE_SIZE, write=True)
        self._words = self._octets.cast("Q")
        self._halves = self._octets.cast("I")
        self._clock = vcpu_time_info.unpack(self._octets, _TIME)
        """What vcpu_time_info held when it was last read; it holds the same while its version does."""

    def mask_all(self) -> None:
        """Hold back every port, as a kernel does before it binds any."""
        for word in range(_NR_WORDS):
            self._words[_MASK + word] = (1 << 64) - 1

    def mask(self, port: Port) -> None:
        """Hold back one port."""
        self._words[_MASK + (port >> 6)] |= 1 << (port & 63)

    def is_masked(self, port: Port) -> bool:
        """Whether the port's mask bit is set."""
        return bool(self._words[_MASK + (port >> 6)] >> (port & 63) & 1)

    def clear_pending(self, port: Port) -> None:
        """Forget an event."""
        self._words[_PENDING + (port >> 6)] &= ~(1 << (port & 63))

    def unmask(self, port: Port) -> bool:
        """Let one port through; True if it is pending, so that Xen has to raise it again (EVTCHNOP_unmask)."""
        word, bit = port >> 6, 1 << (port & 63)
        self._words[_MASK + word] &= ~bit
        return bool(self._words[_PENDING + word] & bit)

    def take_pending(self) -> list[Port]:
        """The pending ports that are not masked, no longer pending; ends the upcall."""
        words = self._words
        self._octets[_UPCALL_PENDING] = 0
        selected, words[_SEL] = words[_SEL], 0
        ports = []
        while selected:
            word = (selected & -selected).bit_length() - 1
            selected &= selected - 1
            bits = words[_PENDING + word] & ~words[_MASK + word]
            words[_PENDING + word] &= ~bits
            while bits:
                ports.append(Port(word << 6 | (bits & -bits).bit_length() - 1))
                bits &= bits - 1
        return ports

    def mask_upcalls(self) -> None:
        """Disable interrupts."""
        self._octets[_UPCALL_MASK] = 1

    def unmask_upcalls(self) -> None:
        """Enable interrupts; what came meanwhile is delivered at once."""
        self._octets[_UPCALL_MASK] = 0
        self._cpu.deliver_events()

    @property
    def fault_address(self) -> VAddr:
        """CR2: the address of the last page fault."""
        return VAddr(self._words[_CR2])

    def wall_clock_at_start(self) -> int:
        """The wall-clock time when system time was 0: nanoseconds since 1970-01-01 UTC."""
        page = shared_info.unpack(self._octets)
        return (page.wc_sec_hi << 32 | page.wc_sec) * NANOSECONDS + page.wc_nsec

    def system_time(self) -> int:
        """Nanoseconds since the machine started, from vcpu_time_info and the time-stamp counter."""
        clock = self._clock
        while True:
            tsc = self._cpu.rdtsc()
            if self._halves[_VERSION] == clock.version and not clock.version & 1:
                break
            clock = self._clock = vcpu_time_info.unpack(self._octets, _TIME)
        ticks = tsc - clock.tsc_timestamp
        shift = clock.tsc_shift
        ticks = ticks << shift if shift >= 0 else ticks >> -shift
        return int(clock.system_time + (ticks * clock.tsc_to_system_mul >> 32))
