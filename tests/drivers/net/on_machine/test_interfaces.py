"""Networks on a real machine: Dom0 connects guests that run in processes of their own."""

import os
import re
import signal
from pathlib import Path

from tests.drivers.net.on_machine.stations import ECHO, FLOOD, GUESTS, PING, await_ready
from tests.machines import Machine, wait_until


def test_one_guest_pings_another(machine: Machine, tmp_path: Path) -> None:
    machine.guest(tmp_path, ECHO, name="echo", extra="vif = ['']")
    await_ready(machine)
    done = machine.guest(tmp_path, PING, "-c", extra="vif = ['mac=00:16:3e:01:02:03']")
    assert "answers: True 00:16:3e:01:02:03" in done.stdout, done.stdout + done.stderr


def test_bridges_of_different_names_do_not_hear_each_other(machine: Machine, tmp_path: Path) -> None:
    machine.guest(tmp_path, ECHO, name="echo", extra="vif = ['bridge=left']")
    await_ready(machine)
    done = machine.guest(tmp_path, PING, "-c", extra="vif = ['bridge=right']")
    assert "answers: False" in done.stdout, done.stdout + done.stderr


def test_the_store_says_of_an_interface_what_libxl_would(machine: Machine, tmp_path: Path) -> None:
    vif = "vif = ['', 'bridge=lan,ip=10.0.0.1,rate=1MB/s@20ms,vifname=web0,mtu=9000,script=/x']"
    machine.guest(tmp_path, ECHO, extra=vif)
    await_ready(machine)
    domid = machine.domain("guest")["domid"]
    rows = machine.json("xenstore-ls")
    nodes = {row["path"]: row["value"] for row in rows}
    front, back = f"/local/domain/{domid}/device/vif/", f"/local/domain/0/backend/vif/{domid}/"
    mac = nodes[f"{front}0/mac"]
    assert re.fullmatch(r"00:16:3e:[0-7][0-9a-f](:[0-9a-f]{2}){2}", mac)
    wanted = {
        f"{front}0/backend": f"{back}0",
        f"{front}0/backend-id": "0",
        f"{front}0/handle": "0",
        f"{front}0/mtu": "1500",
        f"{front}0/state": "4",
        f"{back}0/frontend": f"{front}0",
        f"{back}0/frontend-id": str(domid),
        f"{back}0/mac": mac,
        f"{back}0/bridge": "xenbr0",
        f"{back}0/online": "1",
        f"{back}0/script": "/etc/xen/scripts/vif-bridge",
        f"{back}0/state": "4",
        f"{back}0/hotplug-status": "connected",
        f"{back}1/bridge": "lan",
        f"{back}1/handle": "1",
        f"{back}1/ip": "10.0.0.1",
        f"{back}1/rate": "20000,20000",
        f"{back}1/vifname": "web0",
        f"{back}1/script": "/x",
        f"{front}1/mtu": "9000",
    }
    assert wanted.items() <= nodes.items()
    assert {row["path"]: row["permissions"] for row in rows}[f"{back}0"] == ["n0", f"r{domid}"]
    machine.xenctl("destroy", "guest")
    assert "vif" not in machine.xenctl("xenstore-ls", "-f", "/local/domain").stdout.replace("backend/vif", "")


def test_guests_killed_in_mid_transfer_leave_nothing(machine: Machine, tmp_path: Path) -> None:
    for attempt in range(3):
        names = [f"echo{attempt}", f"flood{attempt}"]
        for name, body in zip(names, (ECHO, FLOOD), strict=True):
            machine.guest(tmp_path, body, name=name, extra="vif = ['']")
        await_ready(machine, 2)
        for name in names:
            os.kill(int(machine.domain(name)["pid"]), signal.SIGKILL)
        wait_until(machine.census_is_clean, 15, "a clean census")


def test_a_guest_fetches_a_page_from_another_that_is_told_to_end(machine: Machine) -> None:
    assert machine.xenctl("create", GUESTS / "webserver.cfg").returncode == 0
    done = machine.xenctl("create", "-c", GUESTS / "webclient.cfg")
    assert "200 OK" in done.stdout
    assert "10.0.0.1 has answered 1 requests" in done.stdout
    words = "extra='http://10.0.0.1/bytes/500000 http://10.0.0.1/nothing'"
    done = machine.xenctl("create", "-c", GUESTS / "webclient.cfg", words)
    assert "500000 bytes in" in done.stdout
    assert "404 Not Found" in done.stdout
    assert machine.xenctl("shutdown", "--wait", "webserver").returncode == 0


def test_a_guest_pings_who_is_there_and_says_who_is_not(machine: Machine) -> None:
    assert machine.xenctl("create", GUESTS / "webserver.cfg").returncode == 0
    done = machine.xenctl("create", "-c", GUESTS / "ping.cfg", "extra='10.0.0.1 10.0.0.77 2'")
    assert "10.0.0.1: 2 of 2 answered" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("no answer from 10.0.0.77") == 2
