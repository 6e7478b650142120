"""A driver domain on a real machine: its guests' network lives and dies with it, and nothing else does."""

import os
import re
import signal
from functools import partial
from pathlib import Path

from tests.drivers.net.on_machine.stations import ECHO, GUESTS, PING, await_ready, said
from tests.machines import Machine, wait_until

NETDOM = GUESTS / "netdom.cfg"
DOWNLOAD = """
from drivers.net.ip.interface import Interface

class Probe(Guest):
    def main(self):
        with Interface(self.kernel).connect("10.0.0.1", 80) as stream:
            stream.write(b"GET /bytes/60000000 HTTP/1.0\\r\\n\\r\\n")
            received = 0
            while data := stream.read(100_000):
                received += len(data)
                self.kernel.xenbus.write("data/received", str(received))
"""


def by_netdom(address: str, more: str = "") -> str:
    return f'vif=["backend=netdom,ip={address}/24{more}"]'


def create(machine: Machine, *words: str | Path) -> str:
    """Create a domain that must come to be; with -c what it said."""
    done = machine.xenctl("create", *words, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def kill(machine: Machine, name: str) -> int:
    """SIGKILL a domain's process, once the core knows it; the id that the domain had."""
    domain = wait_until(
        lambda: next((d for d in machine.domains().values() if d["name"] == name and d["pid"]), None),
        what=f"the process of {name}",
    )
    os.kill(int(domain["pid"]), signal.SIGKILL)
    return int(domain["domid"])


def await_another(machine: Machine, name: str, domid: int) -> int:
    """Wait until a domain of that name is there again; its new id."""
    wait_until(
        lambda: machine.domains().get(name, {"domid": domid})["domid"] != domid, what=f"another {name}"
    )
    return int(machine.domain(name)["domid"])


def nodes(machine: Machine) -> dict[str, tuple[str, list[str]]]:
    return {row["path"]: (row["value"], row["permissions"]) for row in machine.json("xenstore-ls")}


def connected(machine: Machine, guest: str) -> bool:
    """Whether both ends of a guest's interface say so."""
    domid = machine.domains().get(guest, {}).get("domid")
    found = nodes(machine)
    front = f"/local/domain/{domid}/device/vif/0"
    back = found.get(f"{front}/backend", ("", []))[0]
    return [found.get(f"{end}/state", ("", []))[0] for end in (front, back)] == ["4", "4"]


def received(machine: Machine) -> int:
    """What the client of DOWNLOAD has got so far."""
    return int((said(machine, "received") or ["0"])[0])


def has_more(machine: Machine, before: int) -> bool:
    return received(machine) > before


def grants_used(machine: Machine) -> set[int]:
    """Who has pinned other domains' grants at this moment."""
    machine.xenctl("debug-keys", "g")
    report = machine.xenctl("dmesg").stdout.rpartition("grant table usage")[2]
    return {int(user) for user in re.findall(r"user d(\d+)", report)}


def test_guests_reach_each_other_through_a_driver_domain_that_owns_its_nodes_only(machine: Machine) -> None:
    create(machine, NETDOM)
    create(machine, GUESTS / "webserver.cfg", by_netdom("10.0.0.1"))
    said = create(machine, "-c", GUESTS / "webclient.cfg", by_netdom("10.0.0.2"))
    assert "200 OK" in said
    wait_until(lambda: "webclient" not in machine.domains(), what="the client's end")
    driver, guest = (machine.domain(name)["domid"] for name in ("netdom", "webserver"))
    front, back = f"/local/domain/{guest}/device/vif/0", f"/local/domain/{driver}/backend/vif/{guest}/0"
    found = nodes(machine)
    assert found[f"{front}/backend-id"][0] == str(driver)
    assert found[f"{front}/backend"][0] == back
    assert found[back][1] == [f"n{driver}", f"r{guest}"]
    assert found[front][1] == [f"n{guest}", f"r{driver}"]
    owned = {path for path, (_, permissions) in found.items() if permissions[0] == f"n{driver}"}
    assert all(path.startswith(f"/local/domain/{driver}/") for path in owned)
    assert not any(path.startswith("/local/domain/0/backend/vif") for path in found)
    assert {path for path in found if path.startswith(f"/local/domain/{driver}/backend/vif/")} == {
        path for path in found if path.startswith(f"/local/domain/{driver}/backend/vif/{guest}")
    }, "nothing is left of who was served before"


def test_a_driver_domain_killed_in_mid_transfer_is_made_again_and_the_transfer_goes_on(
    machine: Machine, tmp_path: Path
) -> None:
    create(machine, NETDOM)
    create(machine, GUESTS / "webserver.cfg", by_netdom("10.0.0.1", ",rate=500KB/s"))
    machine.guest(tmp_path, ECHO, name="neighbour", extra="vif = ['']")
    machine.guest(tmp_path, DOWNLOAD, name="client", extra=by_netdom("10.0.0.2"))
    await_ready(machine)
    for _ in range(2):
        before = received(machine)
        wait_until(partial(has_more, machine, before), what="a transfer")
        domid = kill(machine, "netdom")
        done = machine.guest(tmp_path, PING, "-c", name="other", extra="vif = ['']")
        assert "answers: True" in done.stdout, "Dom0's own network goes on"
        await_another(machine, "netdom", domid)
    before = received(machine)
    wait_until(lambda: received(machine) > before, what="the same transfer")
    assert all(connected(machine, guest) for guest in ("webserver", "client"))
    machine.xenctl("destroy", "client")
    wait_until(lambda: grants_used(machine) == {0}, what="the end of all uses but Dom0's")


def test_a_driver_domain_that_ends_for_good_unplugs_and_one_of_its_name_plugs_in_again(
    machine: Machine,
) -> None:
    create(machine, NETDOM, "on_crash=destroy")
    create(machine, GUESTS / "webserver.cfg", by_netdom("10.0.0.1"))
    wait_until(lambda: connected(machine, "webserver"), what="the server's first interface")
    driver, guest = kill(machine, "netdom"), machine.domain("webserver")["domid"]
    wait_until(lambda: f"/libxl/{driver}" not in nodes(machine), what="the end of the driver domain")
    left = nodes(machine)
    assert f"/local/domain/{driver}" not in left
    assert f"/local/domain/{guest}/device/vif/0" not in left
    assert machine.xenctl("shutdown", "--wait", "nobody").returncode == 3
    create(machine, NETDOM)
    wait_until(lambda: connected(machine, "webserver"), what="the server's interface")
    said = create(machine, "-c", GUESTS / "ping.cfg", by_netdom("10.0.0.9"), "extra=10.0.0.1 2")
    assert "10.0.0.1: 2 of 2 answered" in said
    assert machine.xenctl("shutdown", "--wait", "netdom").returncode == 0
    wait_until(lambda: f"/local/domain/{guest}/device/vif/0" not in nodes(machine), what="the unplugging")


def test_a_backend_that_is_none_is_refused_in_one_line_and_leaves_nothing(machine: Machine) -> None:
    create(machine, GUESTS / "idle.cfg")
    for backend, code, reason in (
        ("nodom", 3, "there is no domain 'nodom'"),
        ("77", 3, "there is no domain '77'"),
        ("idle", 1, "that is no driver domain"),
    ):
        done = machine.xenctl("create", GUESTS / "ping.cfg", f'vif=["backend={backend},ip=10.0.0.9"]')
        assert done.returncode == code
        assert done.stderr.count("\n") == 1
        assert reason in done.stderr
        assert machine.domains().keys() == {"Domain-0", "idle"}


def test_a_driver_domain_may_write_nothing_of_its_guests(machine: Machine, tmp_path: Path) -> None:
    body = """
from drivers.net.back import NetBack
from hypervisor.public.errno import XenError

class Probe(Guest):
    def main(self):
        NetBack(self.kernel).start()
        xenbus = self.kernel.xenbus
        self.kernel.wait(lambda: xenbus.exists("backend/vif"), 20)
        guest = xenbus.directory("backend/vif")[0]
        mine = f"/local/domain/{self.kernel.domid}"
        front = f"/local/domain/{guest}/device/vif/0"
        paths = (front, f"{front}/state", f"/local/domain/{guest}/name", f"/libxl/{guest}/type", f"{mine}/name",
            f"{mine}/backend/vif/0/0/state", "/local/domain/0/backend/vif/1/0/state", f"{mine}/driver_domain")
        refused = []
        for path in paths:
            try:
                xenbus.write(path, "7")
            except XenError as error:
                refused.append(error.errno.name)
        xenbus.write("data/refused", f"{len(paths)} {refused.count('EACCES')}")
        self.kernel.sleep(600)
"""
    machine.guest(tmp_path, body, name="netdom", extra="driver_domain = 1")
    create(machine, GUESTS / "webserver.cfg", by_netdom("10.0.0.1"))
    wait_until(lambda: said(machine, "refused"), what="its attempts")
    assert said(machine, "refused") == ["8 8"]
