"""A topology's networks over hosts: one file brought up on several machines makes one network, and `down` takes it away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from domains.xenctl.topology.check import load
from tests.domains.xenctl.topology.topo import Topo
from tests.machines import Machine
from tests.vxlan_hosts import loopback_address

HALVES = """
name: {name}
networks:
  lan: {{vxlan: {{vni: 42, local: {local}, peers: [{first}, {second}]}}}}
domains:
  {name}:
    kernel: python:domains.guests.{guest}
    memory: 16
    networks: [{{network: lan, ip: {ip}/24}}]
    wait: {wait}
    extra: http://10.0.0.1/
"""


@pytest.fixture
def topos(tmp_path: Path) -> Iterator[list[Topo]]:
    """Two files for two machines, which are there."""
    with ExitStack() as stack:
        made = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            machine = Machine(memory=128)
            stack.callback(machine.stop)
            made.append(Topo(tmp_path / name, machine.name))
        yield made


def ports(topo: Topo) -> list[dict[str, object]]:
    done = topo.xenctl("vxlan-list", "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def test_two_machines_are_one_network_while_their_topologies_are_up(topos: list[Topo]) -> None:
    """The client has its page from the other machine's server, or it would not have done its work."""
    one, two = topos
    first, second = loopback_address(), loopback_address()
    server = {"guest": "webserver:WebServer", "ip": "10.0.0.1", "wait": 'console "serving http"'}
    client = {"guest": "webclient:WebClient", "ip": "10.0.0.2", "wait": "shutdown"}
    ends = {"first": first, "second": second}
    one.write(HALVES.format(name="web", local=first, **ends, **server))
    two.write(HALVES.format(name="asks", local=second, **ends, **client))
    one.run("up")
    two.run("up")
    (port,) = ports(two)
    assert (port["bridge"], port["vni"], port["local"]) == ("lan", 42, f"{second}:4789")
    two.run("up")  # changes nothing
    assert [p["address"] for p in ports(two)[0]["peers"]] == [f"{first}:4789"]  # type: ignore[attr-defined]
    one.run("down")
    two.run("down")
    assert ports(one) == ports(two) == []


def test_peers_that_the_file_does_not_say_stay_as_somebody_has_set_them(topos: list[Topo]) -> None:
    """As a fleet does, which knows the hosts."""
    one, _ = topos
    local = loopback_address()
    text = 'domains: {a: {kernel: "python:./guests.py:Server", memory: 8, networks: [lan]}}\n'
    one.write(f"networks: {{lan: {{vxlan: {{vni: 7, local: {local}}}}}}}\n{text}")
    one.run("up")
    assert ports(one)[0]["peers"] == []
    assert one.xenctl("vxlan-peers", "lan", "10.0.0.2").returncode == 0
    one.run("up")
    assert [p["address"] for p in ports(one)[0]["peers"]] == ["10.0.0.2:4789"]  # type: ignore[attr-defined]
    one.write(f"networks: {{lan: {{vxlan: {{vni: 8, local: {local}}}}}}}\n{text}")
    done = one.xenctl("up", str(one.file))
    assert done.returncode != 0
    assert (
        f"bridge lan is in VXLAN 7 at {local}:4789 with MTU 1450, which is not what the topology wants"
        in done.stderr
    )
    one.run("down")
    assert ports(one) == []


def test_a_network_that_cannot_be_leaves_none_of_the_others(topos: list[Topo]) -> None:
    one, _ = topos
    local = loopback_address()
    networks = f"lan: {{vxlan: {{vni: 7, local: {local}}}}}, wan: {{vxlan: {{vni: 7, local: 198.51.100.1}}}}"
    one.write(
        f"networks: {{{networks}}}\n"
        'domains: {a: {kernel: "python:./guests.py:Server", memory: 8, networks: [lan, wan]}}\n'
    )
    done = one.xenctl("up", str(one.file))
    assert (done.returncode != 0, done.stderr.count("\n")) == (True, 1)
    assert "cannot use UDP port 4789 of 198.51.100.1: the host has no such address" in done.stderr
    assert ports(one) == []
    assert set(one.states().values()) == {"absent"}


def test_what_a_file_says_is_what_is_planned(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(
        "networks: {lan: {bridge: br1, vxlan: {vni: 42, peers: ['[fd00::2]:7', fd00::3], port: 5, mtu: 8000}}, wan: }\n"
        "domains: {a: {kernel: python:domains.guests.idle:Idle, networks: [lan]}}\n"
    )
    (port,) = load(file).plan().vxlans.ports.values()
    assert (port.bridge, port.vni, port.largest_packet, str(port.own)) == ("br1", 42, 8000, "[::]:5")
    assert list(map(str, port.ends(port.peers))) == ["[fd00::2]:7", "[fd00::3]:5"]
