"""A bridge that is connected with the host: guests and the host's own programs reach each other, and nothing is left."""

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from domains.xenctl.folder import folder_of, is_running
from tests.drivers.net.on_machine.stations import GUESTS
from tests.host_network import (
    HOST,
    HostNetwork,
    HostSide,
    Rights,
    into,
    machine_with_uplink,
    plain,
    skip_if_impossible,
    skip_without_tools,
)
from tests.machines import REPOSITORY, XENCTL, pids_of, wait_until

SERVER = "10.0.0.1"
pytestmark = pytest.mark.needs_iproute2


@pytest.fixture(params=list(Rights), ids=lambda rights: rights.name.lower())
def host(request: pytest.FixtureRequest) -> Iterator[HostSide]:
    with machine_with_uplink(request.param) as host:
        yield host


@pytest.fixture
def nothing_is_left() -> None:
    """A machine of its own, which each test here has, is looked at when it is stopped."""


def test_a_guest_pings_the_host_and_fetches_from_it(host: HostSide, tmp_path: Path) -> None:
    done = host.machine.xenctl("create", "-c", GUESTS / "ping.cfg", f"extra='{HOST} 3'")
    assert f"{HOST}: 3 of 3 answered" in done.stdout, done.stdout + done.stderr
    (tmp_path / "data").write_bytes(bytes(1_000_000))
    with host.serving(tmp_path) as port:
        words = f"extra='http://{HOST}:{port}/data'"
        done = host.machine.xenctl("create", "-c", GUESTS / "webclient.cfg", words)
    assert "1000000 bytes in" in done.stdout, done.stdout + done.stderr


def test_the_host_fetches_from_a_guest_whatever_happens_to_the_interface(host: HostSide) -> None:
    assert host.machine.xenctl("create", GUESTS / "webserver.cfg").returncode == 0
    assert b"Hello from domain 1" in host.fetch(f"http://{SERVER}/")
    assert host.fetch(f"http://{SERVER}/bytes/1000000") == bytes(1_000_000)
    host.run("ip", "link", "set", "xenbr0", "down")
    host.machine.xenctl("create", "-c", GUESTS / "ping.cfg", f"extra='{HOST} 1'")
    host.run("ip", "link", "set", "xenbr0", "up")
    assert b"Hello from domain 1" in host.fetch(f"http://{SERVER}/")
    assert host.run("ip", "link", "delete", "xenbr0").returncode == 0
    done = host.machine.xenctl("create", "-c", GUESTS / "webclient.cfg")
    assert "200 OK" in done.stdout
    assert "uplink/xenbr0 is gone" in host.machine.xenctl("dmesg").stdout


@pytest.mark.parametrize("victim", ["Dom0", "supervisor"])
def test_nothing_is_left_of_a_machine_that_is_killed_in_mid_transfer(victim: str) -> None:
    """That the interface and the namespace go is looked at behind the machine's end."""
    with machine_with_uplink(Rights.UNPRIVILEGED) as host:
        machine = host.machine
        assert machine.xenctl("create", GUESTS / "webserver.cfg").returncode == 0
        with host.fetching(f"http://{SERVER}/bytes/16000000"):
            wait_until(lambda: host.received_bytes() > 1_000_000, what="the transfer")
            pids = pids_of(machine.supervisor)
            dom0 = int(machine.domain("Domain-0")["pid"])
            os.kill(dom0 if victim == "Dom0" else machine.supervisor, signal.SIGKILL)
            wait_until(lambda: not any(map(is_alive, pids)), 5, "the end of all processes")


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


TOPOLOGY = """
networks:
  lan: {subnet: 10.0.0.0/24, uplink: 10.0.0.1}
domains:
  web:
    kernel: python:domains.guests.webserver:WebServer
    memory: 16
    networks: [lan]
    wait: console "serving http"
"""


def test_a_topology_connects_its_network_with_the_host(tmp_path: Path) -> None:
    skip_without_tools()
    file, name = tmp_path / "web.yaml", f"t{uuid.uuid4().hex[:10]}"
    file.write_text(TOPOLOGY)
    environment = {**os.environ, "XENCTL_MACHINE": name}

    def xenctl(*words: str) -> subprocess.CompletedProcess[str]:
        command = [*under, *XENCTL, *words]
        return subprocess.run(
            command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
        )

    with plain() as under:
        done = xenctl("up", str(file))
        skip_if_impossible(done.stderr)
        try:
            assert done.returncode == 0, done.stderr
            about = json.loads(xenctl("info", "--json").stdout)["uplinks"][0]
            assert (about["bridge"], about["address"], about["ifname"]) == ("lan", "10.0.0.1/24", "lan")
            assert b"Hello from domain 1" in HostNetwork(into(about["namespace_pid"])).fetch(
                "http://10.0.0.2/"
            )
        finally:
            xenctl("down", str(file))
    assert not is_running(folder_of(name))


@pytest.mark.parametrize(
    ("uplink", "reason"),
    [
        ("xenbr0=300.0.0.1/24", "no IPv4 address"),
        ("xenbr0=10.0.0.254/24,mode=tap", "unknown option"),
        ("eth0:1", "choose another one"),
        ("xenbr0,ifname=lo", "another kind"),
    ],
)
def test_an_uplink_that_cannot_be_is_refused_in_one_line(uplink: str, reason: str) -> None:
    command = [*XENCTL, "start", "--machine", f"t{os.getpid()}", "--uplink", uplink]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
