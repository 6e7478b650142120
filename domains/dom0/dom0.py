"""Dom0: the services of a machine, brought up in the order in which they need each other.

    store ── its socket, Dom0's own client, guests' rings
      └─ consoles
          └─ toolstack ── the control endpoint
              ├─ privcmd ── hypercalls of the user's programs, such as xl
              └─ block and net back ends ── uplinks to the host's network, VXLAN ports to other hosts

One kernel, one loop: sockets are physical interrupts in it, rings are event channels.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from random import Random, SystemRandom
from typing import Final

from domains.control.address import MachineAddress
from domains.dom0.privcmd.calls import Calls
from domains.dom0.privcmd.server import PrivcmdServer
from domains.dom0.store_access import GuestRings, LocalWire
from domains.dom0.store_turns import StoreTurns
from domains.dom0.toolstack.captures import Captures
from domains.dom0.toolstack.core_dump.dump import dump_folder
from domains.dom0.toolstack.cpupools import FIRST_POOL
from domains.dom0.toolstack.domains import DOM0_NAME
from domains.dom0.toolstack.for_xl import ForXl
from domains.dom0.toolstack.info import MachineIdentity
from domains.dom0.toolstack.lifecycle import Lifecycle
from domains.dom0.toolstack.parts import Parts
from domains.dom0.toolstack.service import Service
from domains.dom0.toolstack.store_tree import write_all
from domains.dom0.toolstack.traffic import Devices
from domains.dom0.toolstack.vxlans import Vxlans
from domains.dom0.toolstack.xenctrl import XenCtrl
from domains.dom0.toolstack.xlcfg.uplink import parse_uplink
from domains.dom0.uplinks import Uplinks
from domains.dom0.xenstore.server import Xenstored
from domains.dom0.xenstore.socket import SocketServer
from domains.kernel.guest import Guest
from domains.kernel.kernel import Kernel
from drivers.block.back import BlockBack
from drivers.net.back import NetBack
from drivers.net.tap import TapError
from hypervisor.machine.busiest import Busiest
from hypervisor.public.xen import VIRQ_DOM_EXC

STORE_SOCKET: Final = "xenstored"
PRIVCMD_SOCKET: Final = "privcmd"
BACKENDS: Final = "/local/domain/0/backend"


class Dom0(Guest):
    """`folder=` and `machine=` on the command line say which machine this is, each `uplink=` what connects it with the host,
    `listens=` where other machines may connect; `unpacker=` and `carrier=` are descriptors of the processes that unpack kernels
    and that connect machines; what is chosen at random follows from `seed=`, if that is given.
    """

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self._stopping = False
        options = [item.partition("=")[::2] for item in kernel.cmdline.split()]
        settings = dict(options)
        self._folder = Path(settings["folder"])
        self._machine = settings["machine"]
        self._seed = int(settings["seed"]) if "seed" in settings else None
        self._chance = SystemRandom() if self._seed is None else Random(self._seed)
        self._unpacker = socket.socket(fileno=int(settings["unpacker"]))
        self._carrier = socket.socket(fileno=int(settings["carrier"]))
        self._listens = settings.get("listens")
        self._uplink_specs = [parse_uplink(text) for name, text in options if name == "uplink"]

    def main(self) -> None:
        """Brings the services up, serves until the machine is to stop, and takes them down."""
        kernel = self.kernel
        self._xenstored = Xenstored(GuestRings(kernel, XenCtrl(kernel)), lambda: kernel.now() / 1e9, print)
        wire = LocalWire(self._xenstored)
        wire.arrived = kernel.connect_xenbus(wire).receive
        self._write_own_nodes()
        store_socket = SocketServer(self._xenstored, kernel, str(self._folder / STORE_SOCKET))
        blocks, nets = BlockBack(kernel), NetBack(kernel)
        try:
            uplinks = Uplinks(kernel, nets, self._uplink_specs)
        except TapError as error:
            print(error, file=sys.__stderr__, flush=True)  # the last words of a machine that does not start
            return
        vxlans = Vxlans(kernel, nets, self._seed is not None)
        for_xl, service = self._start_toolstack(blocks, nets, uplinks, vxlans)
        calls = Calls(kernel, for_xl)
        for_xl.ending(calls.ends)
        privcmd = PrivcmdServer(calls, kernel, str(self._folder / PRIVCMD_SOCKET))
        blocks.start()
        nets.start()
        service.listen(MachineAddress.in_folder(self._folder))
        self._serve()
        service.close()
        privcmd.close()
        vxlans.close()
        uplinks.close()
        store_socket.close()

    def _write_own_nodes(self) -> None:
        xenbus = self.kernel.xenbus
        write_all(xenbus, "/local/domain/0", {"name": DOM0_NAME, "domid": 0})
        xenbus.write("/local/pool/0/name", FIRST_POOL)
        for path in (BACKENDS, "/vm", "/libxl", "/tool"):
            xenbus.mkdir(path)

    def _start_toolstack(
        self, blocks: BlockBack, nets: NetBack, uplinks: Uplinks, vxlans: Vxlans
    ) -> tuple[ForXl, Service]:
        kernel = self.kernel
        dumps = dump_folder(self._machine)
        parts = Parts.made(kernel, self._xenstored, self._chance, self._unpacker, self._carrier, dumps)
        lifecycle = Lifecycle(parts, print)
        kernel.events.bind_virq(VIRQ_DOM_EXC, lifecycle.domain_exception)
        kernel.xenbus.watch(BACKENDS, parts.domains.device_changed)
        machine = MachineIdentity(
            self._machine,
            self._folder,
            self._folder / STORE_SOCKET,
            uplinks.describe(),
            self._seed,
            self._listens,
        )
        captures, devices = Captures(kernel, nets), Devices(blocks, nets)
        service = Service(parts, lifecycle, captures, devices, machine, vxlans, self._stop)
        return ForXl(parts, lifecycle), service

    def _stop(self) -> None:
        self._stopping = True

    def _serve(self) -> None:
        """Serve until the machine is stopped; the store gets its turn after every handler."""
        turns = StoreTurns(self.kernel, self._xenstored)
        self.kernel.loop.busiest = Busiest()

        def stopped() -> bool:
            turns.turn()
            return self._stopping

        self.kernel.wait(stopped)
