"""A machine with net back in Dom0, or in a driver domain, and interfaces for its guests, as the toolstack would make them."""

from drivers.net.back import NetBack
from drivers.net.front import NetFront
from drivers.net.protocol import Packet
from tests.drivers.transport import Domain, Machine


def mac_of(domid: int) -> bytes:
    return bytes((0x00, 0x16, 0x3E, 0, 0, domid))


def frame(destination: bytes, source: bytes, payload: bytes = b"payload", size: int = 60) -> bytes:
    return (destination + source + b"\x88\xb5" + payload).ljust(size, b"\0")


class Network:
    """Net back in domain `backend`, started."""

    def __init__(self, backend: int = 0) -> None:
        self.machine = Machine()
        self.dom0 = self.machine.domain(0)
        self.driver = self.driver_domain(backend) if backend else self.dom0
        self.back = NetBack(self.driver.kernel)
        self.back.start()
        self.machine.settle()

    def driver_domain(self, domid: int) -> Domain:
        """A domain that may read its home, as the toolstack makes it."""
        driver = self.machine.domain(domid)
        self.dom0.xenbus.write(f"/local/domain/{domid}/name", "netdom")
        self.dom0.xenbus.set_permissions(f"/local/domain/{domid}", ["n0", f"r{domid}"])
        return driver

    def replace_driver_domain(self, domid: int, *guests: Domain) -> None:
        """The driver domain dies, and another takes its place, as the toolstack has it."""
        self.driver.die()
        self.dom0.xenbus.rm(f"/local/domain/{self.driver.domid}")
        for guest in guests:
            self.dom0.xenbus.rm(f"/local/domain/{guest.domid}/device/vif/0")
        self.machine.settle()
        self.driver = self.driver_domain(domid)
        self.back = NetBack(self.driver.kernel)
        self.back.start()
        for guest in guests:
            self.attach(guest)
        self.machine.settle()

    def guest(self, domid: int) -> Domain:
        """A new domain with a home of its own in the store."""
        guest = self.machine.domain(domid)
        self.dom0.xenbus.write(f"/local/domain/{domid}/name", f"guest{domid}")
        self.dom0.xenbus.set_permissions(f"/local/domain/{domid}", [f"n{domid}"])
        return guest

    def attach(self, guest: Domain, bridge: str = "xenbr0", **more: str) -> str:
        """Write the nodes of an interface, `more` at its back end; the front's path."""
        domid, backend = guest.domid, self.driver.domid
        front = f"/local/domain/{domid}/device/vif/0"
        back = f"/local/domain/{backend}/backend/vif/{domid}/0"
        mac = mac_of(domid).hex(":")
        nodes = {
            front: {"backend": back, "backend-id": backend, "mac": mac, "handle": 0, "state": 1},
            back: {
                "frontend": front,
                "frontend-id": domid,
                "bridge": bridge,
                "mac": mac,
                "handle": 0,
                "online": 1,
                "state": 1,
                **more,
            },
        }
        readers = {front: [f"n{domid}", f"r{backend}"], back: [f"n{backend}", f"r{domid}"]}
        with self.dom0.xenbus.transaction() as transaction:
            for directory, values in nodes.items():
                transaction.write(directory, "")
                transaction.set_permissions(directory, readers[directory])
                for name, value in values.items():
                    transaction.write(f"{directory}/{name}", str(value))
        return "device/vif/0"

    def detach(self, guest: Domain) -> None:
        """Remove the nodes, as for a domain that is gone."""
        self.dom0.xenbus.rm(f"/local/domain/{guest.domid}/device/vif/0")
        self.dom0.xenbus.rm(f"/local/domain/{self.driver.domid}/backend/vif/{guest.domid}/0")


class Station:
    """A guest on the network, with what it has received."""

    front: type[NetFront] = NetFront

    def __init__(self, network: Network, domid: int, bridge: str = "xenbr0", **more: str) -> None:
        self.mac = mac_of(domid)
        self.guest = network.guest(domid)
        self.received: list[bytes] = []
        self.nic = self.front(self.guest.kernel, network.attach(self.guest, bridge, **more), self.receive)
        self.nic.connect()

    def receive(self, packet: Packet) -> None:
        self.received.append(packet.data)
