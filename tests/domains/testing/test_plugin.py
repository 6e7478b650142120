"""The pytest plugin as a project has it: what its fixtures do, what fails a test and when, and what the report says then.

Each group of tests is run once, by a pytest of its own. That nothing is left of machines is looked at after each run.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.domains.testing.projects import Outcome, Project

pytestmark = pytest.mark.real_machine

WELL = """
import re
import sys

import pytest

GUESTS = "python:./guests.py"


@pytest.fixture
def told(xen_domain):
    return xen_domain(f"{GUESTS}:Told", memory=8)


def test_console(told):
    told.sendline("one")
    assert told.expect("heard one").group() == "heard one"
    told.send(b"two\\nthree\\n")
    assert told.expect(re.compile("heard (t.*)"))[1] == "two"
    assert told.expect(re.compile("heard (t.*)"))[1] == "three"
    with pytest.raises(AssertionError, match="expected 'heard one'.*did not show it"):
        told.expect("heard one", timeout=0.1)
    assert "heard one\\nheard two\\n" in told.console


def test_store(told):
    told.store["data/mood"] = "bright"
    assert told.store["data/mood"] == "bright"
    assert "data/mood" in told.store
    assert "data/other" not in told.store
    assert told.store.get("data/other", "none") == "none"
    assert f"/local/domain/{told.domid}/data/mood" in told.store.tree()
    with pytest.raises(KeyError):
        told.store["data/other"]
    with pytest.raises(AssertionError, match="was not there within"):
        told.store.wait_for("data/other", timeout=0.05)
    with pytest.raises(OSError, match="EINVAL"):
        told.store["a b"] = "x"


@pytest.mark.parametrize(("word", "end"), [
    ("0", ("poweroff", 0)), ("7", ("crash", 7)), ("crash", ("crash", None)), ("reboot", ("reboot", None)),
    ("forget", ("poweroff", None)),
])
def test_end(xen_domain, word, end):
    guest = xen_domain(f"{GUESTS}:Told", memory=8, may_end=("poweroff", "crash", "reboot"))
    guest.sendline(word)
    assert guest.wait() == end
    with pytest.raises(AssertionError, match="cannot type"):
        guest.send("x")
    with pytest.raises(AssertionError, match="ended|crashed"):
        guest.expect("more")


def test_console_io(told):
    told.sendline("xen")
    told.expect("said to Xen")
    assert told.wait().reason == "poweroff"


def test_life(xen_machine, xen_domain):
    first, second = (xen_domain(f"{GUESTS}:Idle", memory=8) for _ in range(2))
    assert (first.name, second.name) == ("guest", "guest-2")
    first.expect("here")
    first.pause()
    first.unpause()
    second.destroy()
    assert second.wait().reason == "destroyed"
    assert [one.name for one in xen_machine.list()] == ["Domain-0", "guest"]
    assert xen_machine.info().domains == 2
    assert "Xenoscope" in xen_machine.dmesg()
    assert xen_machine.store["/local/domain/0/name"] == "Domain-0"


def test_topology(xen_topology):
    from domains.xenctl.topology import Domain, Topology, Wait

    server = Domain(kernel="python:domains.guests.idle:Idle", memory=8, replicas=2)
    told = Domain(kernel="python:./guests.py:Told", memory=8)
    made = xen_topology(Topology(name="three", domains={"server": server, "told": told}))
    assert list(made) == ["server-1", "server-2", "told"]
    assert {one.state for one in made.status()} == {"ready"}
    made["told"].sendline("hello")
    made["told"].expect("heard hello")
    made["told"].store["data/mood"] = "bright"
    made["told"].sendline("0")
    assert made["told"].wait() == ("poweroff", 0)


def test_topology_of_a_file_where_one_reboots(xen_topology):
    made = xen_topology("net.yaml")
    first = made["web"].domid
    made["web"].expect("serving")
    made["web"].reboot()
    made["web"].expect("asked to reboot")
    made["web"].expect("serving")
    made["web"].store["data/mood"] = "bright"
    assert made["web"].domid != first
    made["web"].shutdown()
    assert made["web"].wait().reason == "poweroff"


@pytest.mark.xen(memory=96, cpus=1, sched="credit", seed=11)
def test_mark(xen_machine):
    about = xen_machine.info()
    assert (about.total_frames, about.nr_cpus, about.xen_scheduler, about.seed) == (96 * 256, 1, "credit", 11)
"""


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("well")
    (folder / "net.yaml").write_text('domains: {web: {kernel: "python:./guests.py:Asked", memory: 8}}')
    return Project(folder, WELL).run("-q", "-n", "2", "--strict-markers")


def test_fixtures_do_what_they_say(well: Outcome) -> None:
    assert well.code == 0, well.output
    assert "12 passed" in well.summary


BADLY = '''
import os
import signal
import time

import pytest

GUESTS = "python:./guests.py"


def told(xen_domain, word, **settings):
    guest = xen_domain(f"{GUESTS}:Told", memory=8, **settings)
    guest.sendline(word)
    return guest


def test_crash_in_a_sleep(xen_domain):
    told(xen_domain, "crash")
    time.sleep(100)


def test_crash_of_another(xen_domain):
    idle = xen_domain(f"{GUESTS}:Idle", memory=8, name="idle")
    told(xen_domain, "crash", name="other")
    idle.expect("never", timeout=100)


def test_crash_that_nobody_waits_for(xen_machine, xen_domain):
    guest = told(xen_domain, "crash")
    while xen_machine.list()[1].shutdown is None:
        pass


def test_swallowed(xen_domain):
    told(xen_domain, "crash")
    while True:
        try:
            time.sleep(100)
        except Exception:
            pass


def test_reboot(xen_domain):
    told(xen_domain, "reboot")
    time.sleep(100)


def test_end_that_may_not_be(xen_domain):
    told(xen_domain, "0", may_end=())
    time.sleep(100)


@pytest.fixture
def dying(xen_domain):
    guest = told(xen_domain, "crash")
    guest.expect("never")


def test_crash_in_a_fixture(dying):
    pass


def test_crash_in_a_topology(xen_topology):
    from domains.xenctl.topology import Domain, Topology

    guest = Domain(kernel="python:./guests.py:Told", memory=8)
    made = xen_topology(Topology(name="one", domains={"told": guest}))
    made["told"].sendline("crash")
    time.sleep(100)


def test_end_without_the_text(xen_domain):
    told(xen_domain, "0").expect("never", timeout=100)


def test_machine_dies(xen_machine, xen_domain):
    from tests.domains.testing.projects import name_of
    from tests.machines import pids_of
    xen_domain(f"{GUESTS}:Idle", memory=8).expect("here")
    supervisor = int((xen_machine.folder / "lock").read_text())
    (core,) = [pid for pid in pids_of(supervisor) if name_of(pid) == "xeno-core"]
    os.kill(core, signal.SIGKILL)
    time.sleep(100)


def test_wrong_description(xen_domain):
    xen_domain(f"{GUESTS}:Idle", memory=8, disk=["frob"], on_crash="never")


def test_no_kernel(xen_domain):
    xen_domain("nowhere.elf")


def test_in_between():
    """Whatever the others' guests did is nothing to this one."""


def test_after_all(xen_domain):
    told(xen_domain, "hello").expect("heard hello")
'''


@pytest.fixture(scope="module")
def badly(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return Project(tmp_path_factory.mktemp("badly"), BADLY).run("-q", "-n", "2")


def test_tests_that_nothing_happened_to_pass(badly: Outcome) -> None:
    assert "2 passed" in badly.summary, badly.output
    assert "11 failed" in badly.summary, badly.output


CRASHED = ("guest 'guest' crashed", "ValueError: as", "d1 shuts down, reason 3")


@pytest.mark.parametrize(
    ("test", "says"),
    [
        ("test_crash_in_a_sleep", CRASHED),
        ("test_crash_of_another", ("guest 'other' crashed",)),
        ("test_crash_that_nobody_waits_for", CRASHED),
        ("test_swallowed", CRASHED),
        ("test_reboot", ("guest 'guest' ended (reboot)",)),
        ("test_end_that_may_not_be", ("guest 'guest' ended (poweroff) with code 0",)),
        (
            "test_end_without_the_text",
            ("expected 'never' of guest 'guest', which ended (poweroff) with code 0",),
        ),
        ("test_crash_in_a_fixture", CRASHED),
        ("test_crash_in_a_topology", ("guest 'told' crashed", "- Xen console of told (ended: crash) -")),
        ("test_machine_dies", ("the machine has died", "Xen machine has died")),
        ("test_wrong_description", ("ValueError: ", "vdev", "on_crash")),
        ("test_no_kernel", ("ControlError", "nowhere.elf")),
    ],
)
def test_a_test_fails_at_once_and_says_why(badly: Outcome, test: str, says: tuple[str, ...]) -> None:
    report = badly.failed[test].partition(" Captured ")[0]
    missing = [words for words in says if words not in report]
    assert not missing, report


def test_the_report_has_console_log_store_and_seed(badly: Outcome) -> None:
    report = badly.failed["test_crash_of_another"]
    for section in (
        "- Xen console of idle (runs) -",
        "- Xen console of other (ended: crash) -",
        "- Xen hypervisor log -",
        "- xenstore -",
        "- Xen seed -",
    ):
        assert section in report
    assert '/local/domain/1/name = "idle"' in report
    assert "--xen-seed N" in report
    assert "\x1b" not in report
    assert "ValueError: as \\x1b[31mtold" in report


def test_the_report_shows_the_tests_line_and_none_of_the_plugins(badly: Outcome) -> None:
    report = badly.failed["test_end_without_the_text"]
    assert '>       told(xen_domain, "0").expect("never", timeout=100)' in report
    assert "domain.py:" not in report
    assert "watch.py:" not in badly.failed["test_crash_in_a_sleep"]


def test_a_seed_is_told_and_repeats(tmp_path: Path) -> None:
    tests = """
def test_it(xen_domain):
    xen_domain("python:./guests.py:Idle", memory=8).expect("here")
    assert False
"""
    project = Project(tmp_path, tests)
    report = project.run("--xen-seed", "random").output
    seed = report.partition("xen: --xen-seed ")[2].split()[0]
    assert f"--xen-seed {seed} repeats it; the run's hash" in report


def test_one_machine_may_serve_a_file(tmp_path: Path) -> None:
    tests = """
import pytest

seen = []


@pytest.mark.parametrize("word", ["a", "b"])
def test_it(xen_machine, xen_domain, word):
    seen.append(xen_machine.name)
    xen_domain("python:./guests.py:Idle", memory=8, name="same").expect("here")


def test_same():
    assert len(seen) == 2
    assert len(set(seen)) == 1
"""
    outcome = Project(tmp_path, tests, "xen_machine_scope = module\n").run("-q")
    assert outcome.code == 0, outcome.output
    refused = Project(tmp_path, tests, "xen_machine_scope = decade\n").run("-q")
    assert refused.code == 4
    assert "xen_machine_scope must be one of" in refused.output
    for words, ini in (
        (["--xen-timeout", "nan"], ""),
        (["--xen-timeout", "0"], ""),
        ([], "xen_timeout = soon\n"),
    ):
        refused = Project(tmp_path, tests, ini).run("-q", *words)
        assert refused.code == 4
        assert "xen_timeout must be a number of seconds" in refused.output


def test_who_uses_no_fixture_pays_for_no_import(tmp_path: Path) -> None:
    """Control: a fixture's use loads more."""
    tests = """
import sys

import pytest


def loaded():
    return {name for name in sys.modules if name.split(".")[0] in ("domains", "hypervisor", "drivers", "numpy")}


def test_nothing():
    assert loaded() == {"domains", "domains.testing", "domains.testing.plugin", "domains.testing.watch"}


def test_control(xen_machine):
    assert len(loaded()) > 10
"""
    outcome = Project(tmp_path, tests).run("-q")
    assert outcome.code == 0, outcome.output
