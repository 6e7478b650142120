"""Xen with the back ends in a domain of their own, without privilege: when it crashes, Dom0's toolstack makes another one.

The guest learns of it by an event on its port to what would be xenstore, and connects its front ends to the new back ends.
"""

from __future__ import annotations

from collections.abc import Sequence

from domains.dom0.toolstack.xenctrl import XenCtrl
from domains.lab.systems.back_ends import BackEnds, FrontEnd
from domains.lab.systems.dom0 import FRONT_ENDS
from domains.lab.systems.python_domain import PythonDomain, new_domain
from domains.lab.systems.xen import Xen
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE
from hypervisor.public.xen import VIRQ_DOM_EXC


class XenWithDriverDomain(Xen):
    """A `System`. `broken`: see Disk. `replaces`: whether the toolstack does anything about a driver domain that has crashed.
    `made`: how many driver domains there have been.
    """

    def __init__(self, *, broken: int = -1, replaces: bool = True) -> None:
        super().__init__(broken=broken)
        self.connect = self._connect
        self.driver = self._new_driver()
        self.made = 1
        if replaces:
            self.devices.kernel.events.bind_virq(VIRQ_DOM_EXC, self._look_after)

    def begin(self, programs: Sequence[str]) -> None:
        """See Xen."""
        super().begin(programs)
        self._name_driver()

    def _new_driver(self) -> PythonDomain:
        return new_domain(self.xen)

    def _connect(self, block: FrontEnd, network: FrontEnd) -> None:
        """The driver domain does it, when its turn comes."""
        driver, dom0 = self.driver, self.devices

        def connect() -> None:
            dom0.back_ends = BackEnds(driver.kernel, self.domain.domid, dom0.disk, dom0.packets, dom0.tell)
            dom0.back_ends.connect(block, network)

        driver.have(connect)

    def _look_after(self) -> None:
        """Dom0 is told that a domain has ended: if it is the driver domain, there is another one from now on."""
        dom0 = self.devices
        if not self.driver.domain.is_shut_down:
            return
        if dom0.back_ends is not None:
            dom0.back_ends.close()
            dom0.back_ends = None
        XenCtrl(dom0.kernel).destroydomain(self.driver.domain.domid)
        self.driver = self._new_driver()
        self.made += 1
        self._name_driver()
        dom0.kernel.events.notify(dom0.store_port)

    def _name_driver(self) -> None:
        """Where the guest looks for its back ends' domain."""
        at, domid = self.image.at("front_ends"), self.driver.domain.domid.to_bytes(4, "little")
        for field in (8, FRONT_ENDS.size - 4):
            mfn = int(self.p2m[at + field >> PAGE_SHIFT])
            self.xen.memory.write(mfn << PAGE_SHIFT | (at + field) % PAGE_SIZE, domid)
