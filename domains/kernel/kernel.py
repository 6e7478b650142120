"""The PV kernel of a Python guest: boots from start_info and holds what drivers and services need.

Owns the parts, wired together. A kernel is straight-line code in `Guest.main`, which waits (waiting.py), plus handlers: for
event channels, timers, watches and (Dom0) host descriptors. Handlers run one at a time, while `main` waits. One that needs
an answer is a task (tasks.py). Upcalls come at any time and do no more than make handlers ready.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random, SystemRandom  # `secrets` would load OpenSSL into every guest
from typing import Final, NoReturn

from domains.cpu.python_cpu import PythonCpu
from domains.cpu.traps import TrapFrame, Vector
from domains.kernel.arguments import ArgumentArea
from domains.kernel.boot import start_of_day
from domains.kernel.console import Channel, Console, HypervisorChannel, RingChannel
from domains.kernel.events import EventPorts
from domains.kernel.grants import Grants
from domains.kernel.host_fds import HostFds
from domains.kernel.hypercalls import Hypercalls
from domains.kernel.loop import Callback, Loop
from domains.kernel.memory import PageAllocator
from domains.kernel.shared_info import SharedInfo
from domains.kernel.waiting import Waiting
from domains.kernel.xenbus import Xenbus
from domains.kernel.xs_ring import Wire, XenstoreRing
from hypervisor.public.arch_x86.xen import trap_info
from hypervisor.public.arch_x86.xen_x86_64 import FLAT_KERNEL_CS64
from hypervisor.public.sched import SHUTDOWN_poweroff
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, DomId, Mfn, Pfn, Port, VAddr
from hypervisor.public.xen import SIF_INITDOMAIN, SIF_PRIVILEGED

ARGUMENT_PAGES: Final = 8


class PageFault(Exception):
    """An access that the page tables refuse, and that no handler of the guest has made possible."""

    def __init__(self, va: VAddr, error_code: int) -> None:
        super().__init__(va, error_code)
        self.va = va
        self.error_code = error_code
        """PFEC_… bits: present, write, user (Intel SDM vol. 3A §4.7)."""

    def __str__(self) -> str:
        return f"page fault at {self.va:#x}, error code {self.error_code:#x}"


class ProtectionFault(Exception):
    """An access at an address that is not canonical."""


PageFaultHandler = Callable[[PageFault], None]


class GuestEnded(SystemExit):
    """The domain has been shut down: nothing of the guest runs any more."""


class Kernel(Waiting):
    """One Python kernel on one vCPU.

    `end`: the SHUTDOWN_… reason of the domain when the guest's `main` returns.
    """

    def __init__(self, cpu: PythonCpu) -> None:
        self.cpu = cpu
        self.end = int(SHUTDOWN_poweroff)
        sheet = cpu.gate.mailbox.timesheet
        self.chance = Random(sheet.seed) if sheet.repeats else SystemRandom()
        """What is drawn at random; on a machine that repeats itself it follows from the machine's seed."""
        day = start_of_day(cpu)
        self.start_info = day.info
        self.privileged = bool(day.info.flags & SIF_PRIVILEGED)
        """This is Dom0: it may use domctl, other domains' frames and host descriptors."""
        arguments = VAddr(day.virt_base + (day.first_free << PAGE_SHIFT))
        hypercalls = Hypercalls(cpu, ArgumentArea(cpu, arguments, ARGUMENT_PAGES * PAGE_SIZE))
        self.memory = PageAllocator(cpu, hypercalls, day, Pfn(day.first_free + ARGUMENT_PAGES))
        shared_info = SharedInfo(cpu, self.memory.map_own(Mfn(day.info.shared_info >> PAGE_SHIFT)))
        loop = Loop()
        super().__init__(loop, hypercalls, shared_info, EventPorts(hypercalls, shared_info, loop))
        self.grants = Grants(cpu, hypercalls, self.memory)
        self._page_fault: PageFaultHandler | None = None
        self._xenbus: Xenbus | None = None
        self._domid = DomId(0) if day.info.flags & SIF_INITDOMAIN else None
        self._enter_upcalls()
        self.console = Console(self._console_channel(), self.wait, lambda: not self.in_handler)

    def _enter_upcalls(self) -> None:
        """Traps and the event callback; from here on upcalls come."""
        self.shared_info.mask_all()
        cs = FLAT_KERNEL_CS64
        address_of = self.cpu.address_of
        self.hypercalls.hypercall_set_trap_table(
            [
                trap_info(vector=Vector.page_fault, cs=cs, address=address_of(self._on_page_fault)),
                trap_info(
                    vector=Vector.general_protection, cs=cs, address=address_of(self._on_protection_fault)
                ),
            ]
        )
        self.hypercalls.hypercall_set_callbacks(address_of(self.events.upcall), VAddr(0), VAddr(0))
        self.shared_info.unmask_upcalls()

    @property
    def repeats(self) -> bool:
        """Whether the machine repeats itself, on virtual time."""
        return self.cpu.gate.meter is not None

    @property
    def cmdline(self) -> str:
        """The kernel's command line, `extra` of the domain's description."""
        return self.start_info.cmd_line.split(b"\0")[0].decode("utf-8", "replace")

    @property
    def domid(self) -> DomId:
        """This domain's id; 0 in Dom0. The first use asks xenstore, and belongs into straight-line code."""
        if self._domid is None:
            self._domid = DomId(int(self.xenbus.read("domid")))
        return self._domid

    # --- xenstore and console --------------------------------------------------------------------

    @property
    def xenbus(self) -> Xenbus:
        """The xenstore client, connected at first use."""
        if self._xenbus is None:
            port = Port(self.start_info.store_evtchn)
            page = self.memory.machine_to_virt(Mfn(self.start_info.store_mfn))
            bus = self.connect_xenbus(XenstoreRing(self.cpu, page, lambda: self.events.notify(port)))
            self.events.bind(port, bus.receive)
            return bus
        return self._xenbus

    def connect_xenbus(self, wire: Wire) -> Xenbus:
        """Talk to xenstore over `wire` (Dom0, where the store itself runs, has no ring). Its `receive` is the
        caller's to call.
        """
        self._xenbus = Xenbus(wire, self.loop, self.run)
        return self._xenbus

    def _console_channel(self) -> Channel:
        ring = self.start_info.console.domU
        if self.privileged or not ring.mfn:
            return HypervisorChannel(self.hypercalls)
        port = Port(ring.evtchn)
        page = self.memory.machine_to_virt(Mfn(ring.mfn))
        self.events.bind(port, self._on_console_event)
        return RingChannel(self.cpu, page, lambda: self.events.notify(port))

    def _on_console_event(self) -> None:
        """There is input, which is read when somebody asks for it, or room for output."""
        self.console.push()

    # --- Dom0's host descriptors -----------------------------------------------------------------

    @property
    def host_fds(self) -> HostFds:
        """The host's descriptors, for Dom0 only; made when they are first asked for."""
        if self._host_fds is None:
            self._host_fds = HostFds(self.cpu.gate, self.events, self.loop)
        return self._host_fds

    def add_reader(self, fd: int, callback: Callback, has_come: Callable[[], bool] | None = None) -> None:
        """Dom0: run `callback` while host descriptor `fd` is readable and `has_come()`, by a physical interrupt."""
        self.host_fds.add_reader(fd, callback, has_come)

    def remove_reader(self, fd: int) -> None:
        """Stop watching `fd` for reading; before it is closed."""
        self.host_fds.remove_reader(fd)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Dom0: run `callback` while host descriptor `fd` can be written to."""
        self.host_fds.add_writer(fd, callback)

    def remove_writer(self, fd: int) -> None:
        """Stop watching `fd` for writing; before it is closed."""
        self.host_fds.remove_writer(fd)

    # --- traps and the end -----------------------------------------------------------------------

    def on_page_fault(self, handler: PageFaultHandler | None) -> None:
        """Have page faults handled: when `handler` returns, the access is tried again; it may raise the fault
        it got.
        """
        self._page_fault = handler

    def _on_page_fault(self, frame: TrapFrame) -> None:
        fault = PageFault(self.shared_info.fault_address, frame.error_code)
        if self._page_fault is None:
            raise fault
        self._page_fault(fault)

    def _on_protection_fault(self, _frame: TrapFrame) -> None:
        raise ProtectionFault("access at an address that is not canonical")

    def shutdown(self, reason: int) -> NoReturn:
        """End this domain with SCHEDOP_shutdown; `reason` is a SHUTDOWN_… of Xen public/sched.h."""
        self.console.flush()
        self.hypercalls.hypercall_shutdown(reason)
        raise GuestEnded(0)
