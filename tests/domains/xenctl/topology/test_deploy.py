"""Topologies on real machines: up is repeatable, down takes away what up made and nothing else, order is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from domains.control.protocol import ControlError, Exit
from domains.xenctl.folder import folder_of, is_running
from domains.xenctl.topology import Deployment, Domain, Network, Topology, Wait
from tests.domains.xenctl.topology.topo import CHAIN, GUESTS, Topo
from tests.machines import REPOSITORY, XENCTL, Machine, wait_until


@pytest.fixture
def topo(tmp_path: Path) -> Iterator[Topo]:
    """On a machine of the test's own, which the topology starts."""
    made = Topo(tmp_path, f"t{uuid.uuid4().hex[:10]}")
    yield made
    if is_running(made.folder):
        made.xenctl("stop")
    wait_until(lambda: not made.folder.exists(), 10, "the end of the machine")


@pytest.fixture
def guest_topo(clean_machine: Machine, tmp_path: Path) -> Topo:
    """On a machine that runs already; at the end nothing but Dom0 may be left there."""
    return Topo(tmp_path, clean_machine.name)


def test_up_starts_machine_and_domains_in_order_and_down_leaves_nothing(topo: Topo) -> None:
    topo.write(CHAIN)
    assert set(topo.states().values()) == {"absent"}
    up = topo.run("up")
    lines = up.stderr.splitlines()
    assert lines[0] == "job: has done its work"
    assert sorted(lines[1:3]) == ["server-1: ready", "server-2: ready"] or lines[2] == "last: ready"
    assert lines.index("server-2: ready") < lines.index("last: ready")
    assert topo.states() == {"job": "done", "server-1": "ready", "server-2": "ready", "last": "ready"}
    topo.run("down")
    assert not is_running(topo.folder)
    assert set(topo.states().values()) == {"absent"}


def test_up_warns_of_what_differs_from_a_description(topo: Topo) -> None:
    topo.write('domains: {two: {kernel: "python:./guests.py:Server", memory: 8, cpus: "0", cpus_soft: "1"}}')
    warnings = [line for line in topo.run("up").stderr.splitlines() if line.startswith("xenctl: warning: ")]
    assert len(warnings) == 1
    assert "may run on none of the CPUs that it should" in warnings[0]


def test_a_second_up_changes_nothing(topo: Topo) -> None:
    topo.write(CHAIN)
    topo.run("up")
    before = topo.domids()
    again = topo.run("up")
    assert all("unchanged" in line for line in again.stderr.splitlines())
    assert topo.domids() == before


def test_up_makes_what_is_missing_or_was_changed_and_leaves_the_rest(topo: Topo) -> None:
    topo.write(CHAIN)
    topo.run("up")
    before = topo.domids()
    topo.xenctl("destroy", "server-1")
    topo.write(
        CHAIN.replace(
            'last: {kernel: "python:./guests.py:Server", memory: 8',
            'last: {kernel: "python:./guests.py:Server", memory: 9',
        )
    )
    assert topo.states() == {"job": "done", "server-1": "absent", "server-2": "ready", "last": "changed"}
    topo.run("up")
    after = topo.domids()
    assert after["server-2"] == before["server-2"]
    assert after["server-1"] != before["server-1"]
    assert after["last"] != before["last"]
    assert topo.states()["job"] == "done"


def test_what_was_taken_out_of_the_file_is_surplus_until_down(topo: Topo) -> None:
    topo.write(CHAIN)
    topo.run("up")
    topo.write("\n".join(CHAIN.splitlines()[:-1]) + "\n")
    assert topo.states()["last"] == "surplus"
    topo.run("down")
    assert not is_running(topo.folder)


def test_only_brings_up_what_is_named_and_what_it_needs(topo: Topo) -> None:
    topo.write(CHAIN)
    topo.run("up", "--only", "server-2")
    assert topo.states() == {"job": "done", "server-1": "absent", "server-2": "ready", "last": "absent"}
    wrong = topo.xenctl("up", str(topo.file), "--only", "nobody")
    assert wrong.returncode == 2
    assert wrong.stderr == "xenctl: the topology has no domain 'nobody'\n"


def test_down_touches_no_domain_that_up_did_not_make(
    guest_topo: Topo, clean_machine: Machine, tmp_path: Path
) -> None:
    idle = 'name = "{}"\nkernel = "python:domains.guests.idle:Idle"\nmemory = 8\n'
    clean_machine.create(tmp_path, idle.format("mine"))
    guest_topo.write(CHAIN)
    guest_topo.run("up")
    guest_topo.run("down")
    assert set(clean_machine.domains()) == {"Domain-0", "mine"}
    guest_topo.run("down")
    clean_machine.create(tmp_path, idle.format("server-1"))
    refused = guest_topo.xenctl("up", str(guest_topo.file))
    assert refused.returncode == 1
    assert "not of this topology" in refused.stderr
    assert guest_topo.states() == {"job": "done", "server-1": "foreign", "server-2": "ready", "last": "ready"}
    guest_topo.run("down")
    assert set(clean_machine.domains()) == {"Domain-0", "mine", "server-1"}
    for name in ("mine", "server-1"):
        clean_machine.xenctl("destroy", name)


def test_a_machine_that_up_started_stays_if_somebody_else_uses_it(topo: Topo, tmp_path: Path) -> None:
    topo.write(CHAIN)
    topo.run("up", "--only", "job")
    description = tmp_path / "idle.cfg"
    description.write_text('name = "mine"\nkernel = "python:domains.guests.idle:Idle"\nmemory = 8\n')
    assert topo.xenctl("create", str(description)).returncode == 0
    topo.run("down")
    assert json.loads(topo.xenctl("list", "--json").stdout)[1]["name"] == "mine"


@pytest.mark.parametrize(
    ("guest", "wait", "code", "why"),
    [
        ("Crashing", "console serving", 5, "ended (crash) before it was ready"),
        ("Crashing", "shutdown", 5, "ended (crash) before it was ready"),
        ("Job", "console serving", 1, "ended (poweroff) before it was ready"),
        ("Server", "{console: never, timeout: 1}", 4, "its console did not show 'never' within 1 s"),
        ("Server", "{until: shutdown, timeout: 1}", 4, "did not power off within 1 s"),
    ],
)
def test_a_domain_that_does_not_get_ready_leaves_out_what_comes_after_it_alone(
    topo: Topo, guest: str, wait: str, code: int, why: str
) -> None:
    topo.write(
        f"domains:\n  bad: {{kernel: 'python:./guests.py:{guest}', memory: 8, wait: {wait}}}\n"
        "  next: {kernel: 'python:./guests.py:Server', memory: 8, after: [bad]}\n"
        "  other: {kernel: 'python:./guests.py:Server', memory: 8}\n"
    )
    failed = topo.xenctl("up", str(topo.file))
    assert failed.returncode == code, failed.stderr
    assert failed.stderr.splitlines()[-1] == f"xenctl: bad: {why} (and 1 more did not come up)"
    states = topo.states()
    assert (states["next"], states["other"]) == ("absent", "ready")


def test_a_crashed_domain_that_is_preserved_is_noticed_too(topo: Topo) -> None:
    text = "domains: {a: {kernel: 'python:./guests.py:Crashing', memory: 8, on_crash: preserve, wait: console never}}"
    topo.write(text)
    assert topo.xenctl("up", str(topo.file)).returncode == 5
    assert topo.states() == {"a": "ended"}


def test_a_job_that_reboots_on_the_way_is_waited_for(topo: Topo) -> None:
    topo.write("domains: {a: {kernel: 'python:./guests.py:RebootingOnce', memory: 8, wait: shutdown}}")
    topo.run("up")
    assert topo.states() == {"a": "done"}


@pytest.mark.parametrize("wait", ["shutdown", "console second time"])
def test_a_second_life_that_ends_while_nobody_asks_is_not_missed(topo: Topo, wait: str) -> None:
    """The domain's id changes with a reboot, and the next one is gone as well before `up` comes to look."""
    topo.write(
        "domains: {a: {kernel: 'python:./guests.py:RebootingOnce', memory: 8, extra: obedient,"
        f" wait: {{{'until' if wait == 'shutdown' else 'console'}: {wait.removeprefix('console ')}, timeout: 20}}}}}}"
    )
    up = subprocess.Popen([*XENCTL, "up", str(topo.file)], env=topo.environment)
    wait_until(lambda: is_running(topo.folder) and topo.states().get("a") == "starting", 40, "the domain")
    wait_until(
        lambda: "p" not in json.loads(topo.xenctl("list", "a", "--json").stdout)[0]["state"], 20, "it to run"
    )
    up.send_signal(signal.SIGSTOP)
    topo.xenctl("reboot", "a")
    wait_until(lambda: "domain 2 (a) shut down: poweroff" in topo.xenctl("dmesg").stdout, 20, "both lives")
    up.send_signal(signal.SIGCONT)
    assert up.wait(40) == 0


def test_an_interrupted_up_is_finished_by_the_next(topo: Topo) -> None:
    """The domain that was waited for is not made again; its console is looked at from the first byte."""
    topo.write(
        "domains: {a: {kernel: 'python:./guests.py:Server', memory: 8, wait: {console: never, timeout: 60}}}"
    )
    running = subprocess.Popen(
        [*XENCTL, "up", str(topo.file)],
        env=topo.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: is_running(topo.folder) and topo.states().get("a") == "starting", 40, "the domain")
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == 130
    running.communicate()
    before = topo.domids()
    changed = topo.file.read_text().replace("never", "serving")
    topo.write(changed)
    topo.run("up")
    assert topo.states() == {"a": "ready"}
    assert topo.domids() == before


def test_disks_are_made_and_go_with_the_topology_but_for_those_with_a_path(
    topo: Topo, tmp_path: Path
) -> None:
    precious = tmp_path / "precious.img"
    precious.write_bytes(b"p" * 4096)
    topo.write(f"""\
domains:
  a:
    kernel: python:domains.guests.blockcheck:BlockCheck
    memory: 16
    wait: shutdown
    on_poweroff: preserve
    disks: [{{size: 1MiB}}]
  b:
    kernel: python:./guests.py:Server
    memory: 8
    disks: [{{size: 1MiB, path: kept.img}}, {{file: {precious}, access: ro}}, {{copy: {precious}}}]
""")
    topo.run("up")
    made = topo.folder / "topology" / "topology"
    assert sorted(path.name for path in made.glob("*.img")) == ["a.0.img", "b.2.img"]
    assert (made / "a.0.img").read_bytes() != bytes(1 << 20)
    topo.run("up")
    topo.run("down")
    assert not made.exists()
    assert (tmp_path / "kept.img").stat().st_size == 1 << 20
    assert precious.read_bytes() == b"p" * 4096


def test_a_machine_that_is_too_small_is_refused(guest_topo: Topo) -> None:
    guest_topo.write("machine: {memory: 4096}\n" + CHAIN)
    refused = guest_topo.xenctl("up", str(guest_topo.file))
    assert refused.returncode == 1
    assert "has 512 MiB, the topology wants 4096" in refused.stderr
    guest_topo.run("down")


def test_a_machine_that_dies_ends_up_in_one_line(topo: Topo) -> None:
    topo.write("domains: {a: {kernel: 'python:./guests.py:Server', memory: 8, wait: console never}}")
    running = subprocess.Popen(
        [*XENCTL, "up", str(topo.file)],
        env=topo.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: is_running(topo.folder) and topo.states().get("a") == "starting", 40, "the domain")
    topo.xenctl("stop")
    _, error = running.communicate(timeout=20)
    assert running.returncode == 1
    assert error == "xenctl: the machine has ended\n"


def test_validate_and_graph_from_the_command_line(topo: Topo) -> None:
    topo.write(CHAIN)
    assert "4 domains" in topo.run("validate").stdout
    assert topo.run("graph").stdout.startswith("flowchart")
    assert topo.run("graph", "--format", "graphviz").stdout.startswith("digraph")
    topo.write(CHAIN + "  x: {kernel: 5}\n  y: {}\n")
    wrong = topo.xenctl("validate", str(topo.file))
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines() == [
        f"xenctl: {topo.file}:12:15: kernel: Input should be a valid string",
        f"xenctl: {topo.file}:13:6: 'kernel' is missing",
    ]
    short = topo.xenctl("up", str(topo.file))
    assert short.returncode == 1
    assert len(short.stderr.splitlines()) == 1
    assert "(and 1 more; 'xenctl validate' tells all)" in short.stderr


def test_from_python_a_topology_lives_as_long_as_its_block(tmp_path: Path) -> None:
    (tmp_path / "guests.py").write_text(GUESTS)
    server = Domain(
        kernel=f"python:{tmp_path}/guests.py:Server",
        memory=8,
        extra="hello",
        wait=Wait(until="console", console="serv"),
    )
    topology = Topology(networks={"lan": Network(subnet="10.0.0.0/24")}, domains={"a": server, "b": server})
    told: list[tuple[str, str]] = []
    with Deployment(topology, tell=lambda *what: told.append(what)) as deployment:
        assert "serving hello" in deployment.expect("a", "hello")
        assert {row.name: row.state for row in deployment.status()} == {"a": "ready", "b": "ready"}
        assert is_running(folder_of(deployment.machine))
        with pytest.raises(ControlError) as late:
            deployment.expect("a", "never", timeout=0.2)
        assert late.value.code == Exit.TIMED_OUT
    assert sorted(told) == [("a", "ready"), ("b", "ready")]
    assert not folder_of(deployment.machine).exists()


def test_from_python_a_topology_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """In a program that has many files open, which select(2) once refused."""
    (tmp_path / "guests.py").write_text(GUESTS)
    bad = Domain(kernel=f"python:{tmp_path}/guests.py:Crashing", memory=8, wait=Wait(until="shutdown"))
    deployment = Deployment(Topology(domains={"a": bad}))
    with ExitStack() as files:
        for _ in range(1100):
            files.enter_context(Path(os.devnull).open())
        with pytest.raises(ControlError, match="crash"), deployment:
            pytest.fail("it is up")
    assert not folder_of(deployment.machine).exists()


def test_the_shop_trades(topo: Topo, steps: int | None) -> None:
    """Web servers and clients on two bridges. Small here; the whole example with --steps."""
    text = (REPOSITORY / "docs/examples/shop.yaml").read_text()
    if steps is None:
        for many, few in (("replicas: 6", "replicas: 2"), ("replicas: 4", "replicas: 2")):
            text = text.replace(many, few)
    topo.write(text)
    topo.run("up")
    states = topo.states()
    assert {name.partition("-")[0] for name, state in states.items() if state == "ready"} == {
        "web",
        "stock",
        "office",
    }
    assert {name.partition("-")[0] for name, state in states.items() if state == "done"} == {
        "inventory",
        "customer",
        "clerk",
    }
    topo.run("down")
