"""Debian's unmodified xl and its like drive a machine of ours, through the library that `xenctl xl-env` puts under them."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from domains.control.device_operations import BlockDetach, BlockList, NetworkDetach, NetworkList
from domains.control.memory_operations import MemSet
from domains.dom0.privcmd.messages import DomainRequest, Kind
from domains.xenctl.xl_library import xl_folder
from tests.domains.dom0.privcmd_client import PrivcmdClient
from tests.guests.compiled import HERE, NEEDS, can_compile, compile_guest
from tests.machines import XENCTL, Machine, wait_until

pytestmark = [
    pytest.mark.needs_xl,
    pytest.mark.skipif(
        not (xl_folder() / "versions").exists() or shutil.which("gcc") is None,
        reason="needs scripts/fetch_xl and gcc",
    ),
]
needs_compiler = pytest.mark.skipif(not can_compile(), reason=NEEDS)
MAC = "00:16:3e:12:34:56"
READER = """
class Probe(Guest):
    def main(self) -> None:
        print("what is your name?")
        print(f"hello {self.kernel.console.readline()}")
        self.kernel.sleep(1000)
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Machine]:
    """One machine for all tests; each ends its domains."""
    machine = Machine(memory=128)
    try:
        yield machine
        wait_until(machine.census_is_clean, 30, "a clean census")
    finally:
        machine.stop()


@pytest.fixture
def guest(shared: Machine, tmp_path: Path) -> Iterator[int]:
    """The id of a domain called `guest`, which has a disk and an interface, and is made again if it crashes."""
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    devices = f'disk = ["{image},raw,xvda,rw"]\nvif = ["mac={MAC}"]'
    made = shared.guest(tmp_path, READER, extra=f'on_crash = "restart"\n{devices}')
    assert made.returncode == 0, made.stderr
    yield int(shared.domain("guest")["domid"])
    shared.end_domains()


def run(machine: Machine, *command: str, code: int = 0) -> str:
    """What a program of Debian's prints to standard output on a machine; nothing may be on standard error if it succeeds."""
    done = subprocess.run(
        [*XENCTL, "xl-env", "--", *command],
        capture_output=True,
        text=True,
        env=machine.environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert code or not done.stderr
    return done.stdout


def rows(text: str) -> dict[str, list[str]]:
    """Lines of a table below its head, by their first word."""
    return {words[0]: words[1:] for line in text.splitlines()[1:] if (words := line.split())}


def test_list_prints_what_there_is(shared: Machine, guest: int) -> None:
    listed, ours = rows(run(shared, "xl", "list")), shared.domains()
    assert listed.keys() == ours.keys()
    for name, (domid, memory, vcpus, _state, _time) in listed.items():
        domain = ours[name]
        assert (int(domid), int(vcpus)) == (domain["domid"], domain["vcpus"])
        assert int(memory) == domain["memory_kib"] // 1024
    assert rows(run(shared, "xl", "list", "-v"))["guest"][5] == ours["guest"]["uuid"]


def test_pause_and_unpause_act(shared: Machine, guest: int) -> None:
    run(shared, "xl", "pause", "guest")
    assert "p" in shared.domain("guest")["state"]
    assert rows(run(shared, "xl", "list"))["guest"][3][2] == "p"
    run(shared, "xl", "unpause", "guest")
    assert "p" not in shared.domain("guest")["state"]


def test_destroy_ends_the_domain_and_leaves_nothing(shared: Machine, guest: int) -> None:
    """Not even one that is made in its place: on_crash is for crashes."""
    run(shared, "xl", "destroy", "guest")
    wait_until(shared.census_is_clean, 30, "a clean census")
    assert f"/{guest}" not in shared.xenctl("xenstore-ls", "-f", "/local").stdout
    assert "guest" not in rows(run(shared, "xl", "list"))


def test_info_and_dmesg_tell_of_this_machine(shared: Machine) -> None:
    told = dict(re.findall(r"^(\w+) +: (.*)$", run(shared, "xl", "info"), re.MULTILINE))
    info = shared.info()
    assert told["total_memory"] == str(info["total_frames"] // 256)
    assert told["xen_scheduler"] == info["xen_scheduler"]
    assert told["nr_cpus"] == str(info["nr_cpus"])
    assert run(shared, "xl", "dmesg").startswith(f"Xenoscope: machine {shared.name}")


def test_long_list_tells_how_domains_were_made(shared: Machine, guest: int) -> None:
    configs = {entry["domid"]: entry["config"] for entry in json.loads(run(shared, "xl", "list", "-l"))}
    assert configs.keys() == {0, guest}
    config = configs[guest]
    assert config["c_info"]["uuid"] == shared.domain("guest")["uuid"]
    assert (config["b_info"]["max_memkb"], config["b_info"]["target_memkb"]) == (8192, 8192)
    assert config["b_info"]["sched_params"]["weight"] == 256
    assert config["disks"][0]["vdev"] == "xvda"
    assert config["nics"][0]["mac"] == MAC
    assert config["on_crash"] == "restart"


def test_console_shows_what_was_said_and_types(shared: Machine, guest: int) -> None:
    """Both ways, from the first byte; xenconsole goes when the domain does."""
    command = [*XENCTL, "xl-env", "--", "xl", "console", "guest"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, shared.environment)
    read_until(terminal, b"what is your name?")
    os.write(terminal, b"Dom0\r")
    read_until(terminal, b"hello Dom0")
    shared.destroy("guest")
    assert os.waitpid(pid, 0)[1] == 0
    os.close(terminal)


def read_until(terminal: int, text: bytes) -> None:
    """Read a terminal until it has shown this; the test's own time-out ends one that does not."""
    shown = b""
    while text not in shown:
        shown += os.read(terminal, 4096)


def test_pools_and_their_names(shared: Machine) -> None:
    assert rows(run(shared, "xl", "cpupool-list"))["Pool-0"][1] == shared.info()["xen_scheduler"]


def test_xentop(shared: Machine, guest: int) -> None:
    shown = rows(run(shared, "xentop", "-b", "-i", "1"))
    assert shown.keys() == shared.domains().keys()
    assert shown["guest"][3] == "8192"


@needs_compiler
@pytest.mark.needs_headers
def test_create_makes_a_pv_guest_whose_end_xl_sees(shared: Machine, tmp_path: Path) -> None:
    """libxl builds it, by hypercalls and frames that it maps; its process in the background cleans up when the guest ends."""
    image = compile_guest(HERE / "hello.c", tmp_path / "hello")
    config = tmp_path / "hello.cfg"
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    devices = f'vif = ["mac={MAC}"]\ndisk = ["{disk},raw,xvda,w"]\n'
    config.write_text(f'name = "hello"\nkernel = "{image}"\nmemory = 16\n{devices}')
    before = len(run(shared, "xl", "dmesg"))
    run(shared, "xl", "create", "-q", str(config))
    log = shared.folder / "xl/var/log/xen/xl-hello.log"
    pid = wait_until(lambda: re.search(r"\[pid (\d+)\]", log.read_text()), 30, "xl's process")[1]
    wait_until(shared.census_is_clean, 30, "a clean census")
    assert "SUCCESS" in run(shared, "xl", "dmesg")[before:]
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 30, "the end of xl's process")
    assert "/vm/" not in shared.xenctl("xenstore-ls", "-f").stdout


@needs_compiler
@pytest.mark.needs_headers
def test_what_xl_leaves_in_the_background_ends_with_the_machine(machine: Machine, tmp_path: Path) -> None:
    """It waits for its domain's end, which it hears of by the store; nobody told it that the store is gone."""
    image = compile_guest(HERE / "hello.c", tmp_path / "hello")
    config = tmp_path / "hello.cfg"
    config.write_text(f'name = "hello"\nkernel = "{image}"\nmemory = 16\n')
    run(machine, "xl", "create", "-q", "-p", str(config))
    log = machine.folder / "xl/var/log/xen/xl-hello.log"
    pid = wait_until(lambda: re.search(r"\[pid (\d+)\]", log.read_text()), 30, "xl's process")[1]
    assert Path(f"/proc/{pid}").exists()
    machine.stop()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 30, "the end of xl's process")


@needs_compiler
@pytest.mark.needs_headers
def test_a_domain_of_xls_is_served_as_any(shared: Machine, tmp_path: Path) -> None:
    """Its console is there, xenctl lists, pauses and destroys it, and one of the same name is refused by xl."""
    image = compile_guest(HERE / "hello.c", tmp_path / "hello")
    config = tmp_path / "hello.cfg"
    config.write_text(f'name = "hello"\nkernel = "{image}"\nmemory = 16\n')
    run(shared, "xl", "create", "-q", "-p", "-e", str(config))
    hello = shared.domain("hello")
    assert hello["memory_kib"] // 1024 == 16
    store = {row["path"]: row["value"] for row in shared.json("xenstore-ls", "/local/domain")}
    assert store[f"/local/domain/{hello['domid']}/console/tty"] == f"/dev/xenconsole/{hello['domid']}"
    run(shared, "xl", "create", "-q", "-p", "-e", str(config), code=3)
    assert f"xl console {hello['domid']}" in shared.xenctl("console", "hello").stderr
    with PrivcmdClient(shared.folder) as follower:
        about = DomainRequest(domid=hello["domid"]).pack()
        assert follower.request(Kind.CONSOLE, about) == (0, b"")
        shared.destroy("hello")
        assert follower.receive(1) == b""
    wait_until(shared.census_is_clean, 30, "a clean census")


def test_vcpu_list(shared: Machine, guest: int) -> None:
    assert rows(run(shared, "xl", "vcpu-list"))["guest"][:2] == [str(guest), "0"]


def test_xenstore_clients(shared: Machine, guest: int) -> None:
    assert run(shared, "xenstore-read", f"/local/domain/{guest}/name") == "guest\n"


def test_a_machine_that_does_not_run_is_said(shared: Machine) -> None:
    environment = {**shared.environment, "XENCTL_MACHINE": "none-such"}
    done = subprocess.run(
        [*XENCTL, "xl-env", "xl"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert "machine 'none-such' is not running" in done.stderr


def test_devices_and_memory_come_and_go_by_xl_as_by_xenctl(
    shared: Machine, guest: int, tmp_path: Path
) -> None:
    """libxl writes the nodes itself, waits for our back ends, and takes the nodes away."""
    image = tmp_path / "second.img"
    image.write_bytes(bytes(1 << 20))
    run(shared, "xl", "block-attach", "guest", f"{image},raw,xvdb,w")
    run(shared, "xl", "network-attach", "guest", "bridge=xenbr0")
    assert rows(run(shared, "xl", "block-list", "guest")).keys() == {"51712", "51728"}
    assert [vif["devid"] for vif in shared.ask(NetworkList(("guest",)))] == [0, 1]
    shared.ask(BlockDetach("guest", "xvdb"))
    run(shared, "xl", "block-detach", "guest", "xvda")
    run(shared, "xl", "network-detach", "guest", "1")
    shared.ask(NetworkDetach("guest", MAC))
    assert (shared.ask(BlockList(("guest",))), shared.ask(NetworkList(("guest",)))) == ([], [])
    run(shared, "xl", "mem-max", "guest", "12")
    run(shared, "xl", "mem-set", "guest", "12")
    assert shared.domain("guest")["max_memory_kib"] == (12 + 1) * 1024
    assert shared.ask(MemSet("guest", 8192))["static_max_kib"] == 12 * 1024
    run(shared, "xl", "mem-set", "guest", "13", code=1)
    assert rows(run(shared, "xl", "claims"))["guest"][-1] == "0"
