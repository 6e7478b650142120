"""A fleet of three hosts, each a process of this user's: up, moved, drained, a host killed, down; and what cannot be is told in
one line.

Real machines, one fleet for all that goes well. The agent of a host that is killed has no say in what becomes of its domains.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from domains.control.operations import Destroy, Info
from domains.control.protocol import Exit
from domains.xenctl.fleet.begin import hosts_of
from domains.xenctl.fleet.file import FleetError, load
from domains.xenctl.fleet.head import HeadProcess
from domains.xenctl.fleet.place import folder_of_fleet, is_up, take_fleet
from domains.xenctl.folder import folder_of, is_running, supervisor_pid
from domains.xenctl.launch import Hardware, start_machine
from domains.xenctl.machine import connect, stop_machine
from domains.xenctl.main import run
from tests.domains.xenctl.fleets import FleetOfTests, is_gone, kill
from tests.machines import wait_until

HOSTS = "  a: {memory: 112}\n  b: {memory: 112}\n  c: {memory: 112}\n"
REST = "lease: {lasts: 2s, renew: 500ms, margin: 1s}\n"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FleetOfTests]:
    made = FleetOfTests(tmp_path, HOSTS, REST)
    yield made
    made.down("a", "b", "c")


def test_a_fleet_comes_up_moves_survives_a_host_and_goes_down(fleet: FleetOfTests) -> None:
    up = fleet.run("up")
    assert up.returncode == 0, up.stderr + fleet.log()
    lines = up.stderr.splitlines()
    assert "job: has done its work" in lines
    places = fleet.places()
    assert places.keys() == {"web-1", "web-2", "web-3", "db"}
    assert {places[f"web-{i}"] for i in (1, 2, 3)} == {"a", "b", "c"}
    for host in "abc":
        assert fleet.listed(host) == {name for name, where in places.items() if where == host}
    assert (
        len(list((fleet.folder / "cache" / "xenoscope" / "fleet").iterdir())) == 1
    )  # one file, under its hash

    again = fleet.run("up")
    assert (again.returncode, fleet.places()) == (0, places), again.stderr
    graph = fleet.succeeds("graph")
    assert all(f'["{host}"]' in graph for host in "abc")
    assert fleet.succeeds("ps").splitlines()[0].split() == ["Name", "State", "Host", "Mem", "Moves", "Why"]

    moves_and_refuses(fleet)
    drains(fleet)
    loses_a_host(fleet)
    ends_by_itself(fleet)
    fleet.file.write_text("whatever: it says now\n")
    fleet.succeeds("down")
    fleet.file.write_text(f"name: {fleet.name}\ntopology: topology.yaml\nhosts:\n{HOSTS}")
    assert "is not up; bring it up with 'xenctl fleet up" in fleet.refuses("ps")


def moves_and_refuses(fleet: FleetOfTests) -> None:
    at = fleet.places()["db"] or ""
    other = next(host for host in "abc" if host != at)
    assert fleet.succeeds("migrate", "db", other) == f"db runs on {other}\n"
    assert "db" in fleet.listed(other)
    assert "db" not in fleet.listed(at)
    assert "no host 'z'; it has a, b, c" in fleet.refuses("migrate", "db", "z")
    assert "no domain 'bd'" in fleet.refuses("migrate", "bd")
    assert f"runs on {other} already" in fleet.refuses("migrate", "db", other)
    assert "is done, and only what is ready is moved" in fleet.refuses("migrate", "job")
    assert "no host 'z'" in fleet.refuses("drain", "z")


def drains(fleet: FleetOfTests) -> None:
    host = fleet.places()["db"] or ""
    assert fleet.succeeds("drain", host) == f"host {host} is empty; 2 domains were moved\n"
    assert host not in fleet.places().values()
    assert fleet.listed(host) == set()
    assert f"host {host} is closed" in fleet.refuses("migrate", "db", host)
    assert [one["state"] for one in fleet.status()["hosts"] if one["name"] == host] == ["closed"]
    fleet.succeeds("undrain", host)
    fleet.succeeds("migrate", "db", host)


def loses_a_host(fleet: FleetOfTests) -> None:
    """What it ran does so elsewhere within 15 s."""
    host = fleet.places()["db"] or ""
    kill(fleet.pid_of(host))
    wait_until(lambda: fleet.places().get("db") not in (None, host), 15, "the start of db elsewhere")
    assert not is_running(folder_of(f"{fleet.name}-{host}"))
    states = Counter(one["state"] for one in fleet.status()["domains"])
    assert states == {"ready": 4, "done": 1}
    (lost,) = [one for one in fleet.status()["hosts"] if one["name"] == host]
    assert lost["state"].startswith("lost: its agent ended with code -9")
    assert f"host {host} is over" in fleet.log()
    assert f"host {host} is lost: its agent ended with code -9" in fleet.succeeds("ps")
    assert f"host {host} is lost" in fleet.refuses("drain", host)
    fleet.succeeds("up")
    assert [one["state"] for one in fleet.status()["hosts"]] == ["up"] * 3
    name, before = f"{fleet.name}-{host}", supervisor_pid(folder_of(f"{fleet.name}-{host}"))
    stop_machine(name)  # its agent makes it anew, perhaps before anybody sees that it was gone
    wait_until(lambda: supervisor_pid(folder_of(name)) not in (None, before), 15, "a new machine")
    wait_until(lambda: len(fleet.places()) == 4, 15, "all domains")


def ends_by_itself(fleet: FleetOfTests) -> None:
    """A domain that somebody ends on its host is not there any more, and is not started again."""
    host = fleet.places()["db"] or ""
    with connect(f"{fleet.name}-{host}") as client:
        client.call(Destroy("db"))
    wait_until(lambda: "db" not in fleet.places(), 30, "the head's finding out")
    assert Counter(one["state"] for one in fleet.status()["domains"]) == {"ready": 3, "done": 2}


def test_what_cannot_come_up_leaves_nothing(tmp_path: Path) -> None:
    small = FleetOfTests(tmp_path, "  a: {memory: 72}\n  b: {memory: 72}\n")
    assert "no host has room for 9 MiB and 1 vCPU: 2 hosts with too little memory" in small.refuses("up")
    for rest, says in (
        ("  a: {memory: 112, through: [no-such-program]}\n", "host a: there is no program 'no-such-program'"),
        (
            "  a: {memory: 112, through: [sh, -c, 'echo no way; exit 3']}\n",
            "host a: its agent ended with code 3: no way",
        ),
        ("  a: {memory: 112}\naddress: 192.0.2.1\n", "cannot listen at 192.0.2.1"),
    ):
        fleet = FleetOfTests(tmp_path, rest)
        assert says in fleet.refuses("up")
        assert not is_up(fleet.name)
        assert not folder_of_fleet(fleet.name).exists()


def test_without_ray_one_line_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether it is installed here or not."""
    monkeypatch.setitem(sys.modules, "ray", None)
    fleet = FleetOfTests(tmp_path, "  a: {memory: 112}\n", "engine: ray\n")
    assert run(["fleet", "up", str(fleet.file)]) == Exit.FAILURE
    assert capsys.readouterr().err == "xenctl: this fleet wants Ray: pip install 'xenoscope[fleet]'\n"
    assert not folder_of_fleet(fleet.name).exists()


def test_a_name_belongs_to_whoever_has_it_first(tmp_path: Path) -> None:
    """Another file of a fleet's name neither brings it up nor takes it down; a machine of a host's name goes on, untouched."""
    fleet = FleetOfTests(tmp_path, "  a: {memory: 112}\n")
    other = tmp_path / "other.yaml"
    other.write_text(fleet.file.read_text())
    try:
        fleet.succeeds("up")
        says = f"there is a fleet '{fleet.name}' already, brought up from {fleet.file}"
        for words in (("up",), ("ps",), ("drain", "a"), ("migrate", "db"), ("down",)):
            refused = fleet.run(words[0], *words[1:], file=other)
            assert (refused.returncode, says in refused.stderr) == (1, True), refused
    finally:
        fleet.down("a")
    name = f"{fleet.name}-a"
    assert start_machine(name, Hardware(128))
    try:
        assert (
            f"host a: its agent ended with code 1: a: machine '{name}' is running already"
            in fleet.refuses("up")
        )
        assert is_running(folder_of(name))
        with connect(name) as client:
            client.call(Info())
    finally:
        stop_machine(name)


def test_a_host_that_never_joins_has_no_lease_and_its_fleet_does_not_begin(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor does it leave anything: the other host's machine ends, too."""
    mute = "{memory: 112, through: [sh, -c, 'exec cat > /dev/null']}"
    fleet = FleetOfTests(tmp_path, f"  mute: {mute}\n  a: {{memory: 112}}\n")  # of several the first is told
    loaded = load(fleet.file)
    folder = folder_of_fleet(fleet.name)
    lock = take_fleet(fleet.name, fleet.file)
    HeadProcess(loaded, folder, hosts_of(loaded, folder), join_timeout=5).run()
    os.close(lock)
    shutil.rmtree(folder)
    assert re.search(
        r"in trouble: host mute: its agent has not reached the head at tcp://\S+ within 5 s, so it has no lease",
        capfd.readouterr().err,
    )
    assert not folder_of(f"{fleet.name}-a").exists()


def test_without_a_head_nothing_runs_and_another_may_begin(tmp_path: Path) -> None:
    fleet = FleetOfTests(tmp_path, "  a: {memory: 112}\n", "lease: {lasts: 1s, renew: 200ms, margin: 1s}\n")
    try:
        fleet.succeeds("up")
        kill(fleet.status()["pid"])
        wait_until(lambda: is_gone(folder_of(f"{fleet.name}-a")), 15, "the end of a host without a head")
        fleet.succeeds("up")
        assert set(fleet.places().values()) == {"a"}
    finally:
        fleet.down("a")


MISTAKES = """\
topologie: x.yaml
topology: topology.yaml
hosts:
  a: {memory: 12, cpu: 3}
placement:
  web: {strategy: near, beside: [db], apart: [db]}
lease: {lasts: 1s}
"""
SAYS = [
    "1:1: unknown key 'topologie'; did you mean 'topology'?",
    "4:15: memory: Input should be greater than or equal to 72",
    "4:19: unknown key 'cpu'; did you mean 'cpus'?",
    "6:19: strategy: Input should be 'spread' or 'pack'",
    "7:8: lease: a lease lasts for two renewals at least",
]
DURATIONS = f"""\
topology: topology.yaml
hosts: {{a: {{memory: 112}}}}
lease:
  lasts: {"9" * 400}s
  renew: 0s
  margin: 1 week
"""
SAYS_OF_DURATIONS = [
    "4:10: lasts: a duration is from 1ns to 86400s, a day",
    "5:10: renew: a duration is from 1ns to 86400s, a day",
    "6:11: margin: '1 week' is no duration, such as 1.5ms, 50us or 2s",
]
BETWEEN_PARTS = """\
topology: topology.yaml
hosts:
  a: {memory: 112}
  a-host-with-a-very-long-name: {memory: 112}
placement:
  webb: {}
  web: {beside: [db], apart: [dbx]}
  db: {beside: [web]}
"""
SAYS_BETWEEN = [
    "4:3: machine topology-a-host-with-a-very-long-name has a name of more than 32 letters",
    "6:3: the topology has no domain 'webb'; did you mean 'web'?",
    "7:17: domains are beside in a circle: ",
    "7:31: the topology has no domain 'dbx'; did you mean 'db'?",
]


@pytest.mark.parametrize(
    ("text", "says"), [(MISTAKES, SAYS), (DURATIONS, SAYS_OF_DURATIONS), (BETWEEN_PARTS, SAYS_BETWEEN)]
)
def test_every_mistake_is_told_with_its_place(tmp_path: Path, text: str, says: list[str]) -> None:
    FleetOfTests(tmp_path, "")
    file = tmp_path / "fleet.yaml"
    file.write_text(text)
    with pytest.raises(FleetError) as refused:
        load(file)
    lines = refused.value.message.splitlines()
    assert len(lines) == len(says), lines
    for line, said in zip(lines, says, strict=True):
        assert said in line


def test_a_mistake_in_the_topology_has_its_own_place(tmp_path: Path) -> None:
    fleet = FleetOfTests(tmp_path, "  a: {memory: 112}\n", topology="domains:\n  web: {kernl: x}\n")
    assert fleet.refuses("up").startswith(f"{tmp_path}/topology.yaml:2:9: unknown key 'kernl'")
    fleet.file.write_text("topology: none.yaml\nhosts: {a: {memory: 112}}\n")
    assert f"cannot read {tmp_path}/none.yaml" in fleet.refuses("up")


def test_a_command_line_that_means_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, says in (
        (["lift", "f"], "there is no 'fleet lift'; there is up, down"),
        (["drain", "f"], "'fleet drain' takes a file, HOST"),
        (["migrate", "f"], "'fleet migrate' takes a file, DOMAIN, and perhaps HOST"),
        (["up", "f", "more"], "'fleet up' takes a file, nothing more"),
        (["graph", "f", "--json"], "'fleet graph' prints a drawing"),
        (["up", "f", "--svg", "x"], "'fleet up' draws no --svg"),
    ):
        assert run(["fleet", *words]) == Exit.USAGE
        assert says in capsys.readouterr().err
