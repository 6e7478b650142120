"""The pages that the core and one domain process share for what must not wait for a message.

    0x400  vCPU 0: counter u64   the core adds 1 each time it raises something for this vCPU
           +8      stop u8       the core sets it to end a running slice, and clears it before it answers STOPPED
           +16     cr3 u64       HVM: the guest's CR3, and
           +24     paging u8     the form of the tables it names: GuestPaging (process, before each request)
           +25     code32 u8     HVM: 1 if the guest executes code of 32 or 16 bits (process, before each request)
           +32…63                how work becomes time, on a machine that repeats itself (timesheet.py)
    0x440  vCPU 1: …
    0xC00  epoch u64             the host's CLOCK_MONOTONIC, ns, at system time 0 (core, once)
    0xC10  vcpus u64             how many vCPUs the domain has (core, once)
    0xC18  engine u8             which CPU the process plays: Engine (core, before the process has its first slice)
    0xC20  tsc_offset i64        the guest's TSC is the host's CLOCK_MONOTONIC, ns, plus this (core, before the first slice)
    0xC28  shinfo32 u8           HVM: 1 if shared_info has a 32-bit guest's layout (process, as its guest sets up events)
    0xC30  shadow_frames u64     HVM: how many frames of its own the process may use for shadows (core, before the first slice)
    0xC38…C47                    as +32…63
    0x1000 vCPU 0: raised[512]   one bit an event channel; the core flips a bit, and only when it equals `applied`
           +0x200: applied[512]  the process copies `raised` here once it has set the guest's pending bit
    0x1400 vCPU 1: …

Invariant: each word has one writer (docs/events.md): raised, counter, stop: the core; applied: the process.
A guest's pending bits are therefore written by its own process alone, and no event can be lost or doubled.
"""

from __future__ import annotations

import mmap
from enum import IntEnum
from typing import Final

from hypervisor.public.types import PAGE_SIZE
from hypervisor.wire.timesheet import Timesheet

NR_EVENT_CHANNELS: Final = 4096
MAX_VCPUS: Final = 32
_VCPU: Final = 0x400
_VCPU_STRIDE: Final = 64
_EPOCH: Final = 0xC00
_VCPUS: Final = 0xC10
_ENGINE: Final = 0xC18
_TSC_OFFSET: Final = 0xC20
_SHINFO32: Final = 0xC28
_SHADOW_FRAMES: Final = 0xC30
_EVENTS: Final = 0x1000
_EVENTS_STRIDE: Final = 0x400
_APPLIED: Final = 0x200
MAILBOX_FRAMES: Final = (_EVENTS + MAX_VCPUS * _EVENTS_STRIDE) // PAGE_SIZE
_CR3: Final = 16
_PAGING: Final = 24
_CODE32: Final = 25
STOP_OFFSET: Final = 8
"""Where a vCPU's stop byte lies after its counter."""


class Engine(IntEnum):
    """The CPU that a domain's process plays for its guest. The toolstack says which when it creates the domain; nothing that a
    guest can write has a say, for the Python CPU is not confined (docs/trust.md).
    """

    X86_64 = 0
    PYTHON = 1
    X86_64_NESTED = 2
    """An HVM guest: its own page tables, and the core's P2M below them."""
    X86_64_SHADOW = 3
    """An HVM guest whose CPU walks tables that the process makes of those two."""
    X86_32 = 4
    """A 32-bit PV guest. A domain begins as X86_64; its width is chosen before it has memory, and its process looks then."""

    @property
    def runs_all_vcpus(self) -> bool:
        """Whether its process runs every vCPU of the domain, and not vCPU 0 alone."""
        return self in (Engine.X86_64, Engine.X86_32)

    @property
    def translated(self) -> bool:
        """Whether its guest's frames are not the machine's."""
        return self in (Engine.X86_64_NESTED, Engine.X86_64_SHADOW)


class GuestPaging(IntEnum):
    """How an HVM guest's own page tables are to be walked, as its control registers say."""

    NONE = 0
    TWO_LEVEL = 2
    PAE = 3
    LONG_MODE = 4


class Mailbox:
    """One domain's mailbox, as mapped in this process."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, MAILBOX_FRAMES * PAGE_SIZE)
        view = memoryview(self._map)
        places = range(_EVENTS, _EVENTS + MAX_VCPUS * _EVENTS_STRIDE, _EVENTS_STRIDE)
        self._raised = [view[at : at + _APPLIED] for at in places]
        self._applied = [view[at + _APPLIED : at + 2 * _APPLIED] for at in places]
        self._counters = view[_VCPU:_EPOCH].cast("Q")
        self._octets = view
        self.timesheet = Timesheet(view)

    # --- the core's side -------------------------------------------------------------------------

    def raise_port(self, port: int, vcpu: int) -> None:
        """Make `port` pending for `vcpu`: N raises that the process has not applied are one."""
        byte, bit = port >> 3, 1 << (port & 7)
        raised = self._raised[vcpu]
        if (raised[byte] ^ self._applied[vcpu][byte]) & bit == 0:
            raised[byte] ^= bit
        self._counters[vcpu * (_VCPU_STRIDE // 8)] += 1

    def is_raised(self, port: int) -> bool:
        """True until the process has applied the last raise of `port`, whichever vCPU it was for."""
        byte, bit = port >> 3, 1 << (port & 7)
        return any((self._raised[i][byte] ^ self._applied[i][byte]) & bit for i in range(self.vcpus or 1))

    def kick(self, vcpu: int) -> None:
        """Count an occasion to wake that is no port (a timer, VCPUOP_up)."""
        self._counters[vcpu * (_VCPU_STRIDE // 8)] += 1

    def set_stop(self, vcpu: int, stop: bool) -> None:
        """For the core: ask a vCPU to stop before its next instruction, or ask no longer."""
        self._octets[_VCPU + vcpu * _VCPU_STRIDE + STOP_OFFSET] = stop

    def set_epoch(self, monotonic_ns: int) -> None:
        """For the core, once: CLOCK_MONOTONIC in ns at system time 0."""
        self._octets[_EPOCH : _EPOCH + 8] = monotonic_ns.to_bytes(8, "little")

    def set_vcpus(self, count: int) -> None:
        """For the core, once: how many vCPUs the domain has."""
        self._octets[_VCPUS : _VCPUS + 8] = count.to_bytes(8, "little")

    def set_engine(self, engine: Engine) -> None:
        """Say which CPU the process is to play, before it is there."""
        self._octets[_ENGINE] = engine

    def set_tsc_offset(self, ns: int) -> None:
        """For the core, before the first slice: how far the guest's TSC is ahead of this host's clock; 0 unless the guest comes
        from elsewhere.
        """
        self._octets[_TSC_OFFSET : _TSC_OFFSET + 8] = ns.to_bytes(8, "little", signed=True)

    def set_shadow_frames(self, count: int) -> None:
        """For the core: how many frames the domain's shadow page tables may take."""
        self._octets[_SHADOW_FRAMES : _SHADOW_FRAMES + 8] = count.to_bytes(8, "little")

    def guest_paging(self, vcpu: int) -> tuple[int, int]:
        """(CR3, GuestPaging as any number) of an HVM vCPU, as its process says; a lie spoils its own domain's arguments alone."""
        at = _VCPU + vcpu * _VCPU_STRIDE
        return self._counters[(at + _CR3 - _VCPU) // 8], self._octets[at + _PAGING]

    def in_32bit_code(self, vcpu: int) -> bool:
        """Whether an HVM vCPU's guest lays out its arguments as a 32-bit one, as its process says."""
        return bool(self._octets[_VCPU + vcpu * _VCPU_STRIDE + _CODE32])

    @property
    def has_32bit_shinfo(self) -> bool:
        """Whether an HVM guest's shared_info has a 32-bit guest's layout; a lie spoils its own domain alone."""
        return bool(self._octets[_SHINFO32])

    # --- the process's side ----------------------------------------------------------------------

    def set_guest_mode(self, vcpu: int, cr3: int, paging: GuestPaging, *, code32: bool) -> None:
        """For the process of an HVM guest, before each request: where a vCPU's own page tables begin, their form, and whether
        the code that it executes is no 64-bit code.
        """
        at = _VCPU + vcpu * _VCPU_STRIDE
        self._counters[(at + _CR3 - _VCPU) // 8] = cr3
        self._octets[at + _PAGING] = paging
        self._octets[at + _CODE32] = code32

    def latch_shinfo_size(self, *, is_32bit: bool) -> None:
        """For the process of an HVM guest: its shared_info has this layout from now on."""
        self._octets[_SHINFO32] = is_32bit

    def counter(self, vcpu: int) -> int:
        """How many events the core has raised for this vCPU so far."""
        return self._counters[vcpu * (_VCPU_STRIDE // 8)]

    @property
    def epoch(self) -> int:
        """CLOCK_MONOTONIC at system time 0: system time is `time.monotonic_ns() - epoch`, in every process."""
        return int.from_bytes(self._octets[_EPOCH : _EPOCH + 8], "little")

    @property
    def tsc_offset(self) -> int:
        """What a TSC of this domain reads beyond the host's CLOCK_MONOTONIC, in ns."""
        return int.from_bytes(self._octets[_TSC_OFFSET : _TSC_OFFSET + 8], "little", signed=True)

    def stop(self, vcpu: int) -> bool:
        """Whether this vCPU is asked to stop."""
        return bool(self._octets[_VCPU + vcpu * _VCPU_STRIDE + STOP_OFFSET])

    @property
    def vcpus(self) -> int:
        """How many vCPUs the domain has, for as long as it lives."""
        return int.from_bytes(self._octets[_VCPUS : _VCPUS + 8], "little")

    @property
    def engine(self) -> Engine:
        """The CPU that this process plays."""
        return Engine(self._octets[_ENGINE])

    @property
    def shadow_frames(self) -> int:
        """How many frames of its own this process may use for shadow page tables."""
        return int.from_bytes(self._octets[_SHADOW_FRAMES : _SHADOW_FRAMES + 8], "little")

    def take_raised(self, vcpu: int) -> list[int]:
        """The ports raised for this vCPU since the last call, now applied: the caller sets their pending bits."""
        applied = self._applied[vcpu]
        fresh = int.from_bytes(self._raised[vcpu], "little") ^ int.from_bytes(applied, "little")
        ports = []
        while fresh:
            port = (fresh & -fresh).bit_length() - 1
            fresh &= fresh - 1
            applied[port >> 3] ^= 1 << (port & 7)
            ports.append(port)
        return ports

    def close(self) -> None:
        """Lets go of the pages; the mailbox cannot be used any more."""
        self.timesheet.close()
        for view in (*self._raised, *self._applied, self._counters, self._octets):
            view.release()
