"""Bridges of several machines as one network, by VXLAN over the host's loopback addresses, and over a wire to Linux' own device.

Controls: the attack's packets are counted one by one, and a packet that keeps the rules arrives between them. Without `is_blank`
in `Overlay.arrived` no TCP connection with Linux' own device comes to be.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from domains.control.protocol import Exit
from tests.drivers.net.network import frame, mac_of
from tests.drivers.net.on_machine.stations import ECHO, FRAMES, GUESTS, await_ready, said
from tests.host_network import HOST, HostNetwork
from tests.machines import Machine, wait_until
from tests.vxlan_hosts import (
    FAR4,
    FAR6,
    NEAR4,
    NEAR6,
    attach,
    linux_vxlan,
    loopback_address,
    port_of,
    two_hosts,
)

SERVER = "10.0.0.1"
VNI = 42
MTU = """
from drivers.net.ip.interface import Interface

class Probe(Guest):
    def main(self):
        print("mtu:", Interface(self.kernel).stack.mtu)
"""
LISTENER = (
    FRAMES
    + """
class Probe(Station):
    def main(self):
        self.heard = 0
        self.connect()
        self.say("ready", "yes")
        for number in range(1, 100):
            self.kernel.wait(lambda: self.heard >= number)
            self.say("heard", number)

    def received(self, packet):
        self.heard += packet.data[12:14] == ETHERTYPE
"""
)


@pytest.fixture
def nothing_is_left() -> None:
    """A machine of its own, which each test here has, is looked at when it is stopped."""


@contextmanager
def machines(count: int, vni: int = VNI) -> Iterator[tuple[list[Machine], list[str]]]:
    """Machines whose bridges are connected, each with its address. (All are told all addresses, their own among them.)"""
    with ExitStack() as stack:
        made, addresses = [], [loopback_address() for _ in range(count)]
        for address in addresses:
            made.append(Machine(memory=128))
            stack.callback(made[-1].stop)
            attach(made[-1], "xenbr0", vni, *addresses, "--local", address)
        yield made, addresses


def test_guests_of_two_machines_are_in_one_network(tmp_path: Path) -> None:
    with machines(2) as ((one, two), addresses):
        assert one.xenctl("create", GUESTS / "webserver.cfg").returncode == 0
        done = two.xenctl("create", "-c", GUESTS / "ping.cfg", f"extra='{SERVER} 3'")
        assert f"{SERVER}: 3 of 3 answered" in done.stdout, done.stdout + done.stderr
        words = f"extra='http://{SERVER}/bytes/1000000'"
        done = two.xenctl("create", "-c", GUESTS / "webclient.cfg", words)
        assert "1000000 bytes in" in done.stdout, done.stdout + done.stderr
        for number, machine in enumerate((one, two)):
            port = port_of(machine)
            (peer,) = port["peers"]
            assert (port["vni"], port["mtu"], peer["address"]) == (VNI, 1450, f"{addresses[1 - number]}:4789")
            assert set(port["dropped"].values()) == {0}
            assert min(peer["stations"], peer["sent_frames"], peer["received_frames"]) > 0
        assert port_of(two)["peers"][0]["received_bytes"] > 1_000_000
        assert f"xenbr0: VNI {VNI} at {addresses[0]}:4789, MTU 1450, 1 peer" in one.xenctl("info").stdout
        assert "dropped: too big 0" in one.xenctl("vxlan-list").stdout


def test_a_guest_on_such_a_bridge_is_told_the_mtu_that_fits(tmp_path: Path) -> None:
    with machines(1) as ((machine,), _):
        rows = (("bridge=xenbr0", 1450), ("bridge=xenbr0,mtu=1400", 1400), ("bridge=lan", 1500))
        for number, (vif, mtu) in enumerate(rows):
            extra = f"vif = ['ip=10.0.0.1,{vif}']"
            done = machine.guest(tmp_path, MTU, "-c", name=f"g{number}", extra=extra)
            assert f"mtu: {mtu}" in done.stdout, done.stdout + done.stderr


def test_peers_are_changed_while_it_runs(tmp_path: Path) -> None:
    with machines(3) as ((one, two, three), (first, second, third)):
        for machine, address in ((two, "10.0.0.2"), (three, "10.0.0.3")):
            vif = f"vif=['ip={address}/24']"
            assert machine.xenctl("create", GUESTS / "webserver.cfg", vif).returncode == 0

        def answers(expected: str) -> None:
            done = one.xenctl("create", "-c", GUESTS / "ping.cfg", "extra='10.0.0.2 10.0.0.3 1'")
            found = [f"10.0.0.{n}" for n in (2, 3) if f"10.0.0.{n}: 1 of 1 answered" in done.stdout]
            assert " ".join(found) == expected, done.stdout + done.stderr

        answers("10.0.0.2 10.0.0.3")
        assert one.xenctl("vxlan-peers", "xenbr0", first, third).returncode == 0
        answers("10.0.0.3")
        assert one.xenctl("vxlan-peers", "xenbr0", "--none").returncode == 0
        assert port_of(one)["peers"] == []
        assert one.xenctl("vxlan-peers", "xenbr0", third, second).returncode == 0
        answers("10.0.0.2 10.0.0.3")
        assert one.xenctl("vxlan-detach", "xenbr0").returncode == 0
        assert one.json("vxlan-list") == []
        attach(one, "xenbr0", VNI, second, third, "--local", first)
        answers("10.0.0.2 10.0.0.3")


def test_hostile_packets_are_counted_and_harm_nobody(tmp_path: Path) -> None:
    peer, stranger = loopback_address(), loopback_address()
    with machines(1) as ((machine,), (address,)), ExitStack() as stack:
        assert machine.xenctl("vxlan-peers", "xenbr0", peer).returncode == 0
        for name, body in (("listener", LISTENER), ("echo", ECHO)):
            assert machine.guest(tmp_path, body, name=name, extra="vif = ['']").returncode == 0
        await_ready(machine, 2)
        friend, foe = (stack.enter_context(bound(host)) for host in (peer, stranger))
        header = bytes.fromhex("0800000000002a00")
        hello = header + frame(b"\xff" * 6, mac_of(99))
        attacks = {
            "short": [b"", b"\x08", header, header + bytes(13)],
            "bad_flags": [bytes(8) + hello[8:], b"\xff" * 60],
            "other_vni": [header[:4] + b"\0\0\x2b\0" + hello[8:]],
            "unknown_sender": [hello],
        }
        for round_ in range(1, 101):
            for name, packets in attacks.items():
                for packet in packets:
                    (foe if name == "unknown_sender" else friend).sendto(packet, (address, 4789))
            if round_ % 20 == 0:  # no more than the socket has room for
                friend.sendto(hello, (address, 4789))
                await_heard(machine, round_ // 20)
        expected = {name: 100 * len(packets) for name, packets in attacks.items()}
        wait_until(lambda: port_of(machine)["dropped"] == {"too_big": 0, "unsent": 0} | expected)
        assert "Traceback" not in machine.xenctl("dmesg").stdout


def await_heard(machine: Machine, count: int) -> None:
    """Wait until the listener has got so many packets."""
    wait_until(lambda: said(machine, "heard") == [str(count)], what="the good packet")


@contextmanager
def bound(host: str) -> Iterator[socket.socket]:
    """A socket that sends from that address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((host, 0))
        yield one


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["xenbr0", "0"], Exit.USAGE, "VNI"),
        (["xenbr0", "16777216"], Exit.USAGE, "VNI"),
        (["xen br", "1"], Exit.USAGE, "'bridge' has not the right form"),
        (["xenbr0", "1", "host.example"], Exit.USAGE, "'host.example' is no IP address"),
        (["xenbr0", "1", "10.0.0.2:0"], Exit.USAGE, "'0' in '10.0.0.2:0' is no UDP port"),
        (["xenbr0", "1", "[fd00::2"], Exit.USAGE, "'[fd00::2' is no address with a port"),
        (["xenbr0", "1", "224.0.0.1"], Exit.USAGE, "'224.0.0.1' is not the address of one host"),
        (["xenbr0", "1", "10.0.0.2", "fd00::2"], Exit.USAGE, "not some of each"),
        (["xenbr0", "1", "10.0.0.2:1", "10.0.0.2:2"], Exit.USAGE, "two peers at 10.0.0.2"),
        (["xenbr0", "1", "fd00::2", "--local", "127.0.0.1"], Exit.USAGE, "cannot be reached from"),
        (["xenbr0", "1", "--mtu", "500"], Exit.USAGE, "mtu"),
        (["xenbr0", "1", "--local", "198.51.100.1"], Exit.FAILURE, "the host has no such address"),
        (["there", "1"], Exit.FAILURE, "bridge there has a VXLAN port"),
        (["xenbr0", "7", "--local", "OWN"], Exit.FAILURE, "bridge there has VNI 7"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    words: list[str], code: Exit, reason: str, port_there: tuple[Machine, str]
) -> None:
    machine, own = port_there
    done = machine.xenctl("vxlan-attach", *(own if word == "OWN" else word for word in words))
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert reason in done.stderr
    assert [port["bridge"] for port in machine.json("vxlan-list")] == ["there"]


def test_a_peer_that_is_this_host_itself_is_told_to_be_none(machine: Machine) -> None:
    """Two machines on one host, and their user gave neither an address of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("", 0))
        port = str(one.getsockname()[1])
    done = machine.xenctl("vxlan-attach", "alone", "9", "127.0.0.3", "--port", port)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert "127.0.0.3: this host's own, and no peer" in done.stderr
    assert machine.xenctl("vxlan-detach", "alone").returncode == 0


@pytest.fixture(scope="module")
def port_there() -> Iterator[tuple[Machine, str]]:
    """A machine with a VXLAN port, and that port's address."""
    machine, own = Machine(memory=64), loopback_address()
    attach(machine, "there", 7, "--local", own)
    yield machine, own
    machine.stop()


def test_a_bridge_without_such_a_port_and_a_machine_with_a_seed_have_none(machine: Machine) -> None:
    for words in (("vxlan-detach", "lan"), ("vxlan-peers", "lan", "10.0.0.2")):
        done = machine.xenctl(*words)
        assert (done.returncode, done.stderr.count("\n")) == (Exit.FAILURE, 1)
        assert "bridge 'lan' has no VXLAN port; there are: none" in done.stderr
    seeded = Machine(options=["--seed", "1"], under=["env"])  # it begins anew in a process of its own
    try:
        done = seeded.xenctl("vxlan-attach", "xenbr0", "1")
        assert "a machine with a seed has no VXLAN" in done.stderr
    finally:
        seeded.stop()


@pytest.mark.needs_iproute2
@pytest.mark.parametrize(
    ("near", "far", "mtu"), [(NEAR4, FAR4, 1450), (NEAR6, FAR6, 1430)], ids=["ipv4", "ipv6"]
)
def test_guests_and_linux_own_device_are_in_one_network(
    near: str, far: str, mtu: int, tmp_path: Path
) -> None:
    """Both ways 1 MB by TCP, which Linux sends in segments that stand for many, with checksums that it leaves to the device."""
    with two_hosts() as hosts:
        linux_vxlan(hosts, VNI, near, HOST)
        machine = Machine(under=hosts.near)
        try:
            attach(machine, "xenbr0", VNI, far)
            assert port_of(machine)["mtu"] == mtu
            done = machine.xenctl("create", "-c", GUESTS / "ping.cfg", f"extra='{HOST} 3'")
            assert f"{HOST}: 3 of 3 answered" in done.stdout, done.stdout + done.stderr
            linux = HostNetwork(hosts.far)
            (tmp_path / "data").write_bytes(bytes(1_000_000))
            with linux.serving(tmp_path) as port:
                words = f"extra='http://{HOST}:{port}/data'"
                done = machine.xenctl("create", "-c", GUESTS / "webclient.cfg", words)
            assert "1000000 bytes in" in done.stdout, done.stdout + done.stderr
            assert machine.xenctl("create", GUESTS / "webserver.cfg").returncode == 0
            assert linux.fetch(f"http://{SERVER}/bytes/1000000") == bytes(1_000_000)
            assert set(port_of(machine)["dropped"].values()) == {0}
        finally:
            machine.stop()
