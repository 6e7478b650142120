"""A machine with net back in Dom0 and interfaces for its guests, as the toolstack would make them."""

from drivers.net.back import NetBack
from drivers.net.front import NetFront
from drivers.net.protocol import Packet
from tests.drivers.transport import Domain, Machine


def mac_of(domid: int) -> bytes:
    return bytes((0x00, 0x16, 0x3E, 0, 0, domid))


def frame(destination: bytes, source: bytes, payload: bytes = b"payload", size: int = 60) -> bytes:
    return (destination + source + b"\x88\xb5" + payload).ljust(size, b"\0")


class Network:
    """Dom0 with net back, started."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.dom0 = self.machine.domain(0)
        self.back = NetBack(self.dom0)
        self.back.start()
        self.machine.settle()

    def guest(self, domid: int) -> Domain:
        """A new domain with a home of its own in the store."""
        guest = self.machine.domain(domid)
        self.dom0.xenbus.write(f"/local/domain/{domid}/name", f"guest{domid}")
        self.dom0.xenbus.set_permissions(f"/local/domain/{domid}", [f"n{domid}"])
        return guest

    def attach(self, guest: Domain, bridge: str = "xenbr0", **more: str) -> str:
        """Write the nodes of an interface, `more` at its back end; the front's path."""
        domid = guest.domid
        front, back = f"/local/domain/{domid}/device/vif/0", f"/local/domain/0/backend/vif/{domid}/0"
        mac = mac_of(domid).hex(":")
        nodes = {
            front: {"backend": back, "backend-id": 0, "mac": mac, "handle": 0, "state": 1},
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
        readers = {front: [f"n{domid}", "r0"], back: ["n0", f"r{domid}"]}
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
        self.dom0.xenbus.rm(f"/local/domain/0/backend/vif/{guest.domid}/0")


class Station:
    """A guest on the network, with what it has received."""

    front: type[NetFront] = NetFront

    def __init__(self, network: Network, domid: int, bridge: str = "xenbr0", **more: str) -> None:
        self.mac = mac_of(domid)
        self.guest = network.guest(domid)
        self.received: list[bytes] = []
        self.nic = self.front(self.guest, network.attach(self.guest, bridge, **more), self.receive)
        self.nic.connect()

    def receive(self, packet: Packet) -> None:
        self.received.append(packet.data)
