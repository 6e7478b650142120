"""Hostile neighbours, and what somebody beside them gets: each against the part of the machine that has to hold it off.

Nothing here is timed. CPUs are shared out by the real scheduler in time that is only counted; memory, hypercalls and events are
the real core's; requests and packets are taken in turn by the real back ends' code.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

from domains.lab.in_process import XenInProcess
from domains.lab.played_guest import PAGES, PlayedGuest
from drivers.block.image import Image
from drivers.block.protocol import DIRECT_SEGMENTS, RECORDS_64
from drivers.block.requests import TURN_REQUESTS, RequestServer
from drivers.net.fair_queue import FairQueue
from drivers.net.protocol import Packet
from drivers.ring import BackRing, FrontRing
from hypervisor.domain.domain import Vcpu
from hypervisor.public.event_channel import (
    EVTCHNOP_alloc_unbound,
    EVTCHNOP_bind_interdomain,
    EVTCHNOP_send,
    evtchn_alloc_unbound,
    evtchn_bind_interdomain,
    evtchn_send,
)
from hypervisor.public.io.blkif import BLKIF_OP_WRITE, blkif_request, blkif_request_segment
from hypervisor.public.layout import Struct
from hypervisor.public.memory import XENMEM_populate_physmap, xen_memory_reservation
from hypervisor.public.types import PAGE_SIZE, DomId
from hypervisor.public.vcpu import RunState
from hypervisor.public.xen import DOMID_SELF, Hypercall
from hypervisor.sched.params import CreditParams
from hypervisor.sched.scheduler import Scheduler, SchedUnit
from hypervisor.sched.slices import Slices

MS: Final = 1_000_000
SECOND: Final = 1000 * MS
PERIOD: Final = 10 * MS
WORK: Final = MS
"""Somebody who sleeps most of the time: so much every PERIOD."""
AT_ONCE: Final = 256
UPDATES: Final = 8192
EVENTS: Final = 1000
S = TypeVar("S", bound=Struct)
FRAME_BYTES: Final = 1514


class OneCpu:
    """A CPU, the real scheduler, and time that is counted. Units that are told to stop do so at once."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.now = 0
        self._stopped: list[SchedUnit] = []
        self.resumed: dict[SchedUnit, int] = {}
        self.slices = Slices(1, scheduler, self._resume, self._stopped.append, self._stopped.append)

    def _resume(self, unit: SchedUnit) -> None:
        self.resumed[unit] = self.now

    def settle(self) -> None:
        """Those that were told to stop have stopped."""
        while self._stopped:
            self.slices.yield_(self._stopped.pop(), self.now)

    def wake(self, unit: SchedUnit) -> None:
        """It has something to do."""
        self.slices.wake(unit, self.now)
        self.settle()

    def sleep(self, unit: SchedUnit) -> None:
        """It has not any more."""
        self.slices.sleep(unit, self.now)
        self.settle()

    def until(self, end: int) -> None:
        """Let time pass, slice after slice; at once if it has passed already."""
        while (deadline := self.slices.next_deadline()) is not None and deadline <= end:
            self.now = deadline
            self.slices.expire(self.now)
            self.settle()
        self.now = max(self.now, end)


def shares(scheduler: Scheduler, weights: Sequence[int]) -> list[int]:
    """What each of those who always compute has of a second, in ns."""
    cpu = OneCpu(scheduler)
    units = [SchedUnit(number, 0) for number in range(1, len(weights) + 1)]
    for unit, weight in zip(units, weights, strict=True):
        cpu.slices.add(unit, 0)
        scheduler.adjust(unit.domid, CreditParams(weight), 0)
        cpu.wake(unit)
    cpu.until(SECOND)
    return [unit.runstate.times(SECOND)[RunState.RUNSTATE_running] for unit in units]


def longest_wait(scheduler: Scheduler, spinners: int) -> int:
    """How long, in ns, somebody who sleeps most of the time waits for the CPU at most, beside those who never do."""
    cpu = OneCpu(scheduler)
    for number in range(spinners):
        cpu.wake(SchedUnit(number + 2, 0))
    sleeper, waits = SchedUnit(1, 0), [0]
    while (woken := (cpu.now // PERIOD + 1) * PERIOD) < SECOND:
        cpu.until(woken)
        cpu.wake(sleeper)
        while sleeper.cpu is None:
            cpu.until(cpu.slices.next_deadline() or SECOND)
        waits.append(cpu.resumed[sleeper] - woken)
        cpu.until(cpu.resumed[sleeper] + WORK)
        cpu.sleep(sleeper)
    return max(waits)


class Grabbed(NamedTuple):
    """What a domain that takes all memory had, asked for and was given, what is left for others, and its limit; frames."""

    had: int
    asked: int
    given: int
    left: int
    most: int


def memory_hog() -> Grabbed:
    """It asks until it is refused; then somebody else asks for one frame."""
    xen = XenInProcess()
    hog, other = PlayedGuest(xen), PlayedGuest(xen)
    had, asked = hog.domain.mem.tot_pages, 0
    while populate(hog, PAGES + asked, AT_ONCE) == AT_ONCE:
        asked += AT_ONCE
    given = hog.domain.mem.tot_pages - had
    left = xen.hv.free_frames
    assert populate(other, PAGES, 1) == 1
    xen.close()
    return Grabbed(had, asked + AT_ONCE, given, left, hog.domain.mem.max_pages)


def populate(guest: PlayedGuest, first: int, count: int) -> int:
    """Ask for so many frames; how many there were."""
    numbers = b"".join((first + n).to_bytes(8, "little") for n in range(count))
    reservation = xen_memory_reservation(
        extent_start=guest.scratch + xen_memory_reservation.sizeof, nr_extents=count, domid=DOMID_SELF
    )
    return guest.call(
        Hypercall.memory_op, int(XENMEM_populate_physmap), guest.put(reservation.pack() + numbers)
    )


class Stormed(NamedTuple):
    """`portions`: in how many the long hypercall was performed; `before`: after how many of them the other's was."""

    portions: int
    before: int


def hypercall_storm() -> Stormed:
    """One domain has thousands of entries checked by one hypercall; another asks for next to nothing meanwhile."""
    xen = XenInProcess()
    hog, other = PlayedGuest(xen), PlayedGuest(xen)
    entry = hog.entry_for(hog.scratch, 1)
    value = int(xen.memory.frames[entry >> 12, entry % PAGE_SIZE // 8])
    one = entry.to_bytes(8, "little") + value.to_bytes(8, "little")
    begin(xen, hog.vcpu, int(Hypercall.mmu_update), hog.put(one * UPDATES), UPDATES, 0, int(DOMID_SELF))
    portions, before = 1, 0
    while xen.hv.run.continuations:
        if not before:
            begin(xen, other.vcpu, int(Hypercall.xen_version), 0)
            before = portions if other.vcpu in xen.processes.answers else 0
        xen.dispatcher.go_on()
        portions += 1
    assert xen.processes.answers[hog.vcpu][0] == 0
    xen.close()
    return Stormed(portions, before)


def begin(xen: XenInProcess, vcpu: Vcpu, number: int, *args: int) -> None:
    """The first portion of a hypercall."""
    xen.hv.run.request(vcpu, vcpu.run.seq + 1, number)
    a, b, c, d, e = (*args, *(0,) * (5 - len(args)))
    xen.dispatcher.hypercall(vcpu, number, (a, b, c, d, e), 0)


def event_storm(*, looks_each_time: bool = False) -> int:
    """How many upcalls EVENTS events are for the other, who looks when all were sent, or after each."""
    xen = XenInProcess()
    hog, other = PlayedGuest(xen), PlayedGuest(xen)
    remote = evtchn_alloc_unbound(dom=DOMID_SELF, remote_dom=DomId(hog.domain.domid))
    other.call(Hypercall.event_channel_op, int(EVTCHNOP_alloc_unbound), other.put(remote.pack()))
    port = result(other, evtchn_alloc_unbound).port
    local = evtchn_bind_interdomain(remote_dom=other.domain.domid, remote_port=port)
    hog.call(Hypercall.event_channel_op, int(EVTCHNOP_bind_interdomain), hog.put(local.pack()))
    send = evtchn_send(port=result(hog, evtchn_bind_interdomain).local_port).pack()
    upcalls = 0
    for _ in range(EVENTS):
        assert hog.call(Hypercall.event_channel_op, int(EVTCHNOP_send), hog.put(send)) == 0
        upcalls += len(other.domain.mailbox.take_raised(0)) if looks_each_time else 0
    upcalls += len(other.domain.mailbox.take_raised(0))
    xen.close()
    return upcalls


def result(guest: PlayedGuest, struct: type[S]) -> S:
    """What Xen wrote back into the arguments of the last hypercall."""
    return struct.unpack(guest.xen.hv.mmu.guest.copy_from_guest(guest.vcpu.mem, guest.scratch, struct.sizeof))


def disk_writer(crowd: int) -> int:
    """How many of the requests of somebody who fills its ring are done before another's single one. `crowd`: among how
    many a back end shares its turn.
    """
    fd = os.memfd_create("disk", os.MFD_CLOEXEC)
    os.ftruncate(fd, DIRECT_SEGMENTS * PAGE_SIZE)
    image = Image(f"/proc/self/fd/{fd}", "w")
    hog, other = writer(image, TURN_REQUESTS), writer(image, 1)
    hog.serve(crowd)
    done = hog.counters.wr_req
    other.serve(crowd)
    assert other.counters.wr_req == 1
    image.close()
    os.close(fd)
    return done


def writer(image: Image, requests: int) -> RequestServer:
    """A back end's ring, with so many requests of the largest kind waiting in it."""
    page = memoryview(bytearray(PAGE_SIZE))
    front = FrontRing(page, RECORDS_64.request, RECORDS_64.response)
    segment = blkif_request_segment(gref=1, first_sect=0, last_sect=7)
    for number in range(requests):
        request = blkif_request(
            operation=int(BLKIF_OP_WRITE),
            nr_segments=DIRECT_SEGMENTS,
            id=number,
            seg=(segment,) * DIRECT_SEGMENTS,
        )
        front.put(request.pack())
    front.push()
    return RequestServer(
        BackRing(page, RECORDS_64.request, RECORDS_64.response), image, OwnPages(), lambda: None
    )


class OwnPages:
    """Pages of this process in the place of granted ones."""

    def views(self, refs: Sequence[int], writable: bool) -> list[memoryview]:
        """See requests.Pages."""
        return [memoryview(bytearray(PAGE_SIZE)) for _ in refs]

    def filled(self, bounds: Sequence[tuple[int, int]]) -> None:
        """See requests.Pages."""

    def all_kept(self, refs: Sequence[int]) -> bool:
        """See requests.Pages."""
        return False

    def let_go(self) -> None:
        """See requests.Pages."""

    def close(self) -> None:
        """See requests.Pages."""


def flooder(*, fair: bool = True) -> tuple[int, int]:
    """How many packets a flood has waiting for somebody, and how many of them leave before another sender's.

    `fair`: a queue for each sender; else one for all.
    """
    queue, packet = FairQueue(), Packet(bytes(FRAME_BYTES))
    waiting = 0
    while queue.add("flood", packet):
        waiting += 1
    mine = Packet(b"another's")
    queue.add("other" if fair else "flood", mine)
    before = 0
    while queue and queue.take() is not mine:
        before += 1
    return waiting, before
