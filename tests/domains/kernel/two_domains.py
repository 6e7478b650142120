"""Dom0 with a store and consoles, and a guest connected to both, in one process.

While the guest is blocked Dom0's loop runs, and the other way round the guest runs only in the test's own
calls.
"""

from __future__ import annotations

from domains.dom0.console.consoled import Consoled
from domains.dom0.store_access import GuestRings, LocalWire
from domains.dom0.toolstack.xenctrl import XenCtrl
from domains.dom0.xenstore.server import Xenstored
from domains.kernel.kernel import Kernel
from hypervisor.public.event_channel import EVTCHNOP_alloc_unbound, evtchn_alloc_unbound
from hypervisor.public.types import PAGE_SHIFT, DomId, Mfn, Port
from hypervisor.public.xen import start_info, start_info_console, start_info_console_domU
from tests.domains.kernel.one_process import PythonDomain
from tests.inprocess import InProcess

DOM0 = DomId(0)


class TwoDomains:
    """`store`: Dom0's client; `kernel`: the guest's, not yet booted before `boot`."""

    def __init__(self, machine: InProcess) -> None:
        self.machine = machine
        self.control = PythonDomain(machine, privileged=True).boot()
        self.xenstored = Xenstored(GuestRings(self.control, XenCtrl(self.control)))
        wire = LocalWire(self.xenstored)
        self.store = self.control.connect_xenbus(wire)
        wire.arrived = self.store.receive
        self.consoled = Consoled(self.control)
        self.guest = PythonDomain(machine)
        self.domid = self.guest.gate.domid
        self.guest.gate.meanwhile.append(self.run_dom0)
        self._write_start_info()

    def _write_start_info(self) -> None:
        built = self.guest.built
        self.ports = [self._alloc_unbound() for _ in range(2)]
        layout = built.layout
        self.ring_frames = [Mfn(int(built.p2m[pfn])) for pfn in (layout.xenstore, layout.console)]
        at = int(built.p2m[layout.start_info]) << PAGE_SHIFT
        info = start_info.unpack(self.machine.memory.read(at, start_info.sizeof))
        info.store_mfn, info.store_evtchn = self.ring_frames[0], self.ports[0]
        ring = start_info_console_domU(mfn=self.ring_frames[1], evtchn=self.ports[1])
        info.console = start_info_console(domU=ring)
        self.machine.memory.write(at, info.pack())

    def _alloc_unbound(self) -> Port:
        """A port of the guest's for Dom0, as the toolstack makes it."""
        op = evtchn_alloc_unbound(dom=self.domid, remote_dom=DOM0)
        self.control.hypercalls.hypercall_event_channel_op(EVTCHNOP_alloc_unbound, op)
        return op.port

    def boot(self) -> Kernel:
        """Introduce the guest to Dom0's services and boot it."""
        self.store.introduce(self.domid, self.ring_frames[0], self.ports[0])
        self.terminal = self.consoled.connect(self.domid, self.ring_frames[1], self.ports[1])
        home = f"/local/domain/{self.domid}"
        self.store.write(f"{home}/domid", str(self.domid))
        self.store.write(f"{home}/data", "")
        for path in (home, f"{home}/domid", f"{home}/data"):
            self.store.set_permissions(path, [f"n{self.domid}"])
        return self.guest.boot()

    def run_dom0(self) -> None:
        """One turn of Dom0: its events, its handlers, its store."""
        self.control.cpu.deliver_events()
        while self.control.loop.run_one():
            pass
        self.xenstored.run()
