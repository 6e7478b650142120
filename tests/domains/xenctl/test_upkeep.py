"""What xl users type at domains that run: other names, other descriptions for the next life, all at once, and how `create` stays
or goes; on one machine.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from domains.control.operations import XenstoreLs
from tests.domains.xenctl.commands import succeeds, xenctl
from tests.machines import Machine, wait_until

WAITING = """
class Probe(Guest):
    def main(self) -> None:
        self.kernel.wait(lambda: False)
"""
HEEDING = """
from domains.kernel.shutdown import await_shutdown

class Probe(Guest):
    def main(self) -> None:
        await_shutdown(self.kernel)
"""
ENDING = """
class Probe(Guest):
    def main(self) -> None:
        self.kernel.shutdown({})
"""


def node(machine: Machine, name: str, path: str) -> str:
    """What a node below the domain's own directory says."""
    domid = machine.domain(name)["domid"]
    (found,) = machine.ask(XenstoreLs(f"/local/domain/{domid}/{path}"))
    value: bytes = found["value"]
    return value.decode()


def test_a_renamed_domain_is_found_by_its_new_name_and_keeps_it_over_a_reboot(
    shared_machine: Machine, tmp_path: Path
) -> None:
    shared_machine.guest(tmp_path, HEEDING, name="before")
    shared_machine.guest(tmp_path, WAITING, name="other")
    assert xenctl(shared_machine, "rename", "before", "other").code == 1
    assert succeeds(shared_machine, "rename", "before", "before") == ""
    assert succeeds(shared_machine, "rename", "before", "after") == ""
    assert set(shared_machine.domains()) == {"Domain-0", "after", "other"}
    assert node(shared_machine, "after", "name") == "after"
    first = shared_machine.domain("after")["domid"]
    succeeds(shared_machine, "reboot", "after")
    wait_until(lambda: shared_machine.domains().get("after", {"domid": first})["domid"] != first)
    for name in ("after", "other"):
        shared_machine.destroy(name)


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("rename", "Domain-0", "x"), 1, "Dom0 keeps its name"),
        (("rename", "nobody", "x"), 3, "xenctl list"),
        (("rename", "0", "7"), 2, "must not be a number"),
        (("rename", "0", "a/b"), 2, "without blanks and '/'"),
        (("sysrq", "0", "h"), 1, "debug-keys"),
        (("sysrq", "0", "hh"), 2, "one letter"),
        (("console", "-t", "serial", "x"), 2, "-t pv"),
        (("console", "-t", "tty", "x"), 2, "-t pv"),
        (("console", "-n", "1", "x"), 2, "-n 0"),
        (("console", "-e", "^^^", "x"), 2, "^X for Ctrl-X"),
        (("shutdown",), 2, "--all"),
        (("reboot", "-a", "x"), 2, "not both"),
        (("uptime", "0", "nobody"), 3, "xenctl list"),
        (("create",), 2, "/dev/null"),
        (("config-update", "nobody", "/dev/null", "name='x'"), 1, "kernel"),
    ],
)
def test_what_cannot_be_is_one_line_that_says_what_to_do(
    shared_machine: Machine, words: tuple[str, ...], code: int, why: str
) -> None:
    done = xenctl(shared_machine, *words)
    assert (done.code, len(done.err.splitlines()), done.out) == (code, 1, ""), done
    assert why in done.err


def test_a_domain_is_made_by_its_new_description_when_it_restarts_and_not_before(
    shared_machine: Machine, tmp_path: Path
) -> None:
    shared_machine.guest(tmp_path, HEEDING)
    first = shared_machine.domain("guest")
    (described,) = tmp_path.glob("*.cfg")
    succeeds(shared_machine, "config-update", "guest", described, "memory=9")
    assert shared_machine.domain("guest")["memory_kib"] == 8 * 1024
    succeeds(shared_machine, "reboot", "guest")
    wait_until(lambda: shared_machine.domains().get("guest", first)["memory_kib"] == 9 * 1024)
    assert shared_machine.domain("guest")["uuid"] == first["uuid"]
    shared_machine.destroy("guest")


def test_all_domains_are_shut_down_in_one_call(shared_machine: Machine, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shared_machine.guest(tmp_path, HEEDING, name=name)
    shared_machine.guest(tmp_path, WAITING, name="deaf")
    late = xenctl(shared_machine, "shutdown", "-a", "-F", "-w", "--timeout", "2", "--json")
    assert late.code == 4
    assert late.err.splitlines() == [
        "xenctl: domain 'deaf' did not shut down within 2 s",
        "xenctl: 1 of 3 domains did not do as they were asked",
    ]
    assert late.out.count('"poweroff"') == 2
    assert set(shared_machine.domains()) == {"Domain-0", "deaf"}
    shared_machine.destroy("deaf")
    assert succeeds(shared_machine, "shutdown", "--all", "--wait") == ""


def test_lists_show_what_xl_shows(shared_machine: Machine, tmp_path: Path) -> None:
    shared_machine.guest(tmp_path, ENDING.format(3), name="crashed", extra='on_crash = "preserve"')
    wait_until(lambda: shared_machine.domain("crashed")["shutdown"])
    about = shared_machine.domain("crashed")
    header, _, row = succeeds(shared_machine, "list", "-v", "-n", "-c").splitlines()
    assert header.endswith("Cpupool  NODE Affinity")
    assert "Security Label" in header
    assert row.split()[-5:] == [about["uuid"], "3", "-", "Pool-0", "all"]
    vms = succeeds(shared_machine, "vm-list").splitlines()
    assert [line.split() for line in vms] == [
        ["UUID", "ID", "name"],
        [about["uuid"], str(about["domid"]), "crashed"],
    ]
    times = succeeds(shared_machine, "uptime", "crashed", "0").splitlines()
    assert [line.split()[0] for line in times] == ["Name", "crashed", "Domain-0"]
    assert about["uptime"] < shared_machine.domain("Domain-0")["uptime"]
    assert "Domain-0 (0)" in succeeds(shared_machine, "uptime", "-s")
    shared_machine.destroy("crashed")


def test_a_creation_may_be_quiet_stay_or_leave_the_domain_as_it_ends(
    shared_machine: Machine, tmp_path: Path
) -> None:
    assert shared_machine.guest(tmp_path, WAITING, "-q", name="quiet").stdout == ""
    shared_machine.destroy("quiet")
    stays = shared_machine.guest(tmp_path, ENDING.format(0), "-q", "-F", name="ends")
    assert (stays.returncode, stays.stderr) == (0, "xenctl: the domain ended: poweroff\n")
    crashed = shared_machine.guest(tmp_path, ENDING.format(3), "--foreground", name="crashes")
    assert crashed.returncode == 5
    left = shared_machine.guest(tmp_path, ENDING.format(0), "-e", "-V", name="left")
    assert left.returncode == 0
    assert "there is no display" in left.stderr
    wait_until(lambda: shared_machine.domain("left")["shutdown"] == "poweroff")
    shared_machine.destroy("left")


def test_a_creation_may_be_played_and_makes_nothing(shared_machine: Machine, tmp_path: Path) -> None:
    """As xl create -n: the description is read, what is ignored is told, and what would be made is printed."""
    text = 'name = "played"; bootloader = "pygrub"; dhcp = "dhcp"; disk = ["/srv/a.img,,xvda", "b,qcow2,xvdb,r"]\n'
    done = shared_machine.create(tmp_path, text, "--dryrun")
    assert done.returncode == 0
    made = json.loads(done.stdout)
    assert (made["name"], made["kernel"]) == ("played", "disk:/srv/a.img")
    assert [disk["format"] for disk in made["disks"]] == ["raw", "qcow2"]
    assert "dhcp is ignored" in done.stderr
    assert "played" not in shared_machine.domains()
    assert shared_machine.create(tmp_path, "name = 1", "-n").returncode == 1


def test_a_description_may_be_named_by_an_option_and_keys_take_its_place(
    shared_machine: Machine, tmp_path: Path
) -> None:
    file = tmp_path / "a.cfg"
    file.write_text('kernel = "python:domains.guests.idle:Idle"\nmemory = 8\n')
    assert "(one)" in succeeds(shared_machine, "create", "name='one'", "-f", file)
    shared_machine.destroy("one")
