"""A machine with block back in Dom0 or in a driver domain, and virtual disks for guests, as the toolstack would make them."""

from pathlib import Path

from drivers.block.back import BlockBack
from tests.drivers.transport import Domain, Machine


class Disks:
    """Block back in domain `backend`, started."""

    def __init__(self, backend: int = 0) -> None:
        self.machine = Machine()
        self.dom0 = self.machine.domain(0)
        self.backend = backend
        self.driver = self.dom0
        if backend:
            self.driver = self.machine.domain(backend)
            self.dom0.xenbus.write(f"/local/domain/{backend}/name", "diskdom")
            self.dom0.xenbus.set_permissions(f"/local/domain/{backend}", ["n0", f"r{backend}"])
        self.back = BlockBack(self.driver.kernel)
        self.back.start()
        self.machine.settle()

    def guest(self, domid: int) -> Domain:
        """A new domain with a home of its own in the store."""
        guest = self.machine.domain(domid)
        self.dom0.xenbus.write(f"/local/domain/{domid}/name", f"guest{domid}")
        self.dom0.xenbus.set_permissions(f"/local/domain/{domid}", [f"n{domid}"])
        return guest

    def attach(self, guest: Domain, image: Path, mode: str = "w", device: int = 51712) -> str:
        """Write the nodes of a disk; the front's path."""
        front = f"/local/domain/{guest.domid}/device/vbd/{device}"
        back = f"/local/domain/{self.backend}/backend/vbd/{guest.domid}/{device}"
        nodes = {
            front: {"backend": back, "backend-id": self.backend, "virtual-device": device, "state": 1},
            back: {
                "frontend": front,
                "frontend-id": guest.domid,
                "params": image,
                "mode": mode,
                "online": 1,
                "state": 1,
            },
        }
        readers = {
            front: [f"n{guest.domid}", f"r{self.backend}"],
            back: [f"n{self.backend}", f"r{guest.domid}"],
        }
        with self.dom0.xenbus.transaction() as transaction:
            for directory, values in nodes.items():
                transaction.write(directory, "")
                transaction.set_permissions(directory, readers[directory])
                for name, value in values.items():
                    transaction.write(f"{directory}/{name}", str(value))
        return f"device/vbd/{device}"

    def state(self, guest: Domain, device: int = 51712) -> str:
        """The back end's state."""
        return self.dom0.xenbus.read(f"/local/domain/{self.backend}/backend/vbd/{guest.domid}/{device}/state")

    def detach(self, guest: Domain, device: int = 51712) -> None:
        """Remove the nodes, as for a domain that is gone."""
        self.dom0.xenbus.rm(f"/local/domain/{guest.domid}/device/vbd/{device}")
        self.dom0.xenbus.rm(f"/local/domain/{self.backend}/backend/vbd/{guest.domid}/{device}")

    def ask_to_close(self, guest: Domain, device: int = 51712) -> None:
        """What the toolstack writes to take a disk from a running domain."""
        back = f"/local/domain/{self.backend}/backend/vbd/{guest.domid}/{device}"
        with self.dom0.xenbus.transaction() as transaction:
            transaction.write(f"{back}/online", "0")
            transaction.write(f"{back}/state", "5")
