"""The life of domains as a user sees it: made, listed, stopped, ended; and what of a failure is left, which
is nothing.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.machines import Machine, wait_until

STUBBORN = """
class Probe(Guest):
    def main(self) -> None:
        print("here")
        self.kernel.wait(lambda: False)
"""
OBEDIENT = """
class Probe(Guest):
    def main(self) -> None:
        self.request = ""
        self.kernel.xenbus.watch("control/shutdown", self.changed)
        print("here")
        self.kernel.wait(lambda: bool(self.request))
        self.kernel.shutdown(1 if self.request == "reboot" else 0)

    def changed(self, path: str) -> object:
        self.request = yield from self.kernel.xenbus.tasks.read(path)
"""
CRASHING = """
class Probe(Guest):
    def main(self) -> None:
        print("about to fail")
        raise ValueError("on purpose")
"""
REBOOTING = """
class Probe(Guest):
    def main(self) -> None:
        print("again")
        self.kernel.shutdown(1)
"""

CHOOSING_VERSION_2 = """
from hypervisor.public.errno import XenError
from hypervisor.public.grant_table import GNTTABOP_set_version, gnttab_set_version

class Probe(Guest):
    def main(self) -> None:
        op = gnttab_set_version(version=2)
        try:
            self.kernel.hypercalls.hypercall_grant_table_op(GNTTABOP_set_version, [op])
        except XenError as refused:
            print(refused.errno.name)
        print("version", op.version)
"""


def test_a_domain_is_listed_with_what_it_has(shared_machine: Machine, tmp_path: Path) -> None:
    made = shared_machine.guest(tmp_path, STUBBORN, "--json", name="web")
    assert made.returncode == 0, made.stderr
    about = shared_machine.domain("web")
    assert (about["memory_kib"], about["vcpus"]) == (8 * 1024, 1)
    assert set(about) >= {"domid", "name", "state", "memory_kib", "vcpus", "pid", "uuid"}
    os.kill(about["pid"], 0)
    assert shared_machine.xenctl("domid", "web").stdout.strip() == str(about["domid"])
    assert shared_machine.xenctl("domname", str(about["domid"])).stdout.strip() == "web"
    table = shared_machine.xenctl("list").stdout.splitlines()
    assert table[0].split() == ["Name", "ID", "Mem", "VCPUs", "State", "Time(s)", "PID"]
    assert [row.split()[0] for row in table[1:]] == ["Domain-0", "web"]
    assert shared_machine.xenctl("destroy", "web").returncode == 0
    assert set(shared_machine.domains()) == {"Domain-0"}


def test_names_are_unique(shared_machine: Machine, tmp_path: Path) -> None:
    shared_machine.guest(tmp_path, STUBBORN, name="web")
    again = shared_machine.guest(tmp_path, STUBBORN, name="web")
    assert again.returncode == 1
    assert "exists already" in again.stderr
    shared_machine.xenctl("destroy", "web")


def test_overrides_make_many_domains_of_one_description(shared_machine: Machine, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        made = shared_machine.guest(tmp_path, STUBBORN, f"name={name}", "memory=9")
        assert made.returncode == 0, made.stderr
    domains = shared_machine.domains()
    assert set(domains) == {"Domain-0", "a", "b", "c"}
    assert domains["b"]["memory_kib"] == 9 * 1024
    for name in ("a", "b", "c"):
        shared_machine.xenctl("destroy", name)


@pytest.mark.parametrize(
    ("text", "options", "code", "why"),
    [
        ('name = "x"\nkernel = "/nonexistent/vmlinuz"', (), 1, "/nonexistent/vmlinuz"),
        ('name = "x"\nkernel = "/etc/passwd"', (), 1, "neither an ELF file nor a bzImage"),
        ('name = "x"\nkernel = "python:nowhere.py:Class"', (), 1, "nowhere.py"),
        ('name = "x"\nkernel = "python:domains.guests.idle:Idle"\nmemory = 1', (), 1, "1 MiB"),
        ('name = "x"\nkernel = "python:domains.guests.idle:Idle"\nmemory = 99999', (), 1, "are free"),
        ('name = "x"\nkernel = "k"\nmemroy = 5', (), 1, ":3:1: unknown key"),
        ('name = "x"\nkernel = "k"', ("memory=x",), 2, "command line:1:8:"),
        ('name = "x"\nkernel = "k"', ("--frob",), 2, "--frob"),
        (
            'name = "x"\nkernel = "python:domains.guests.idle:Idle"\nmemory = 8\ndisk = ["/nonexistent/d,,xvda"]',
            (),
            1,
            "/nonexistent/d",
        ),
    ],
)
def test_a_creation_that_fails_says_why_in_one_line_and_leaves_nothing(
    shared_machine: Machine, tmp_path: Path, text: str, options: tuple[str, ...], code: int, why: str
) -> None:
    failed = shared_machine.create(tmp_path, text, *options)
    assert failed.returncode == code, failed.stderr
    assert why in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "command", ["destroy", "pause", "unpause", "shutdown", "console", "domid", "domname"]
)
def test_a_domain_that_does_not_exist_has_its_own_exit_code(shared_machine: Machine, command: str) -> None:
    for name in ("nobody", "4711"):
        done = shared_machine.xenctl(command, name)
        assert done.returncode == 3
        assert len(done.stderr.splitlines()) == 1


def test_dom0_is_not_a_guest(shared_machine: Machine) -> None:
    for command in ("destroy", "pause", "shutdown"):
        assert shared_machine.xenctl(command, "0").returncode == 1
    assert shared_machine.xenctl("list").returncode == 0


def test_a_paused_domain_does_not_run(shared_machine: Machine, tmp_path: Path) -> None:
    shared_machine.guest(tmp_path, OBEDIENT, "-p")
    assert "p" in shared_machine.domain("guest")["state"]
    assert shared_machine.xenctl("shutdown", "-w", "--timeout", "0.3", "guest").returncode == 4
    shared_machine.xenctl("unpause", "guest")
    wait_until(lambda: "guest" not in shared_machine.domains(), 10, "the shutdown asked for while paused")


def test_a_domain_that_is_not_paused_cannot_be_unpaused(shared_machine: Machine, tmp_path: Path) -> None:
    """The answer was "EINVAL: domctl"."""
    shared_machine.guest(tmp_path, STUBBORN)
    refused = shared_machine.xenctl("unpause", "guest")
    assert (refused.returncode, refused.stderr) == (1, "xenctl: domain 'guest' is not paused\n")
    shared_machine.xenctl("destroy", "guest")


def test_a_domain_that_heeds_the_request_is_gone_after_shutdown(
    shared_machine: Machine, tmp_path: Path
) -> None:
    shared_machine.guest(tmp_path, OBEDIENT)
    assert shared_machine.xenctl("shutdown", "-w", "--timeout", "20", "guest").returncode == 0
    assert set(shared_machine.domains()) == {"Domain-0"}


def test_a_domain_that_does_not_heed_it_times_out(shared_machine: Machine, tmp_path: Path) -> None:
    shared_machine.guest(tmp_path, STUBBORN)
    late = shared_machine.xenctl("shutdown", "-w", "--timeout", "0.5", "guest")
    assert late.returncode == 4
    assert len(late.stderr.splitlines()) == 1
    assert shared_machine.xenctl("destroy", "guest").returncode == 0


@pytest.mark.parametrize(("action", "kept"), [("destroy", False), ("preserve", True)])
def test_on_crash_decides_what_becomes_of_a_crashed_domain(
    shared_machine: Machine, tmp_path: Path, action: str, kept: bool
) -> None:
    shared_machine.guest(tmp_path, CRASHING, extra=f'on_crash = "{action}"')
    if kept:
        found = wait_until(lambda: shared_machine.domains().get("guest", {}).get("shutdown"), 10, "the crash")
        assert found == "crash"
        assert "c" in shared_machine.domain("guest")["state"]
        shared_machine.xenctl("destroy", "guest")
    wait_until(lambda: set(shared_machine.domains()) == {"Domain-0"}, 10, "the end of the domain")


def test_a_domain_that_reboots_comes_back_as_another_one(shared_machine: Machine, tmp_path: Path) -> None:
    shared_machine.guest(tmp_path, OBEDIENT)
    first = shared_machine.domain("guest")
    shared_machine.xenctl("reboot", "guest")
    second = wait_until(
        lambda: (
            (found := shared_machine.domains().get("guest")) and found["domid"] != first["domid"] and found
        ),
        20,
        "the new domain",
    )
    assert second["uuid"] == first["uuid"]
    shared_machine.xenctl("destroy", "guest")


HEEDING = """
from domains.kernel.shutdown import await_shutdown

class Probe(Guest):
    def main(self) -> None:
        await_shutdown(self.kernel)
"""


def test_a_guest_that_heeds_requests_and_does_no_more_reboots_when_asked(
    shared_machine: Machine, tmp_path: Path
) -> None:
    shared_machine.guest(tmp_path, HEEDING, extra='on_reboot = "preserve"')
    done = shared_machine.xenctl("reboot", "-w", "--timeout", "20", "guest")
    assert done.returncode == 0, done.stderr
    assert shared_machine.domain("guest")["shutdown"] == "reboot"
    shared_machine.xenctl("destroy", "guest")


def test_a_reboot_that_becomes_something_else_has_failed(shared_machine: Machine, tmp_path: Path) -> None:
    powering_off = HEEDING + "        self.kernel.shutdown(0)\n"
    shared_machine.guest(tmp_path, powering_off)
    done = shared_machine.xenctl("reboot", "-w", "--timeout", "20", "guest")
    assert done.returncode == 1
    assert done.stderr == "xenctl: domain 'guest' ended otherwise (poweroff)\n"


def test_rename_restart_keeps_the_old_domain_under_another_name(
    shared_machine: Machine, tmp_path: Path
) -> None:
    shared_machine.guest(tmp_path, OBEDIENT, extra='on_reboot = "rename-restart"')
    domid = shared_machine.domain("guest")["domid"]
    shared_machine.xenctl("reboot", "guest")
    kept = f"guest-{domid}"
    wait_until(lambda: {"guest", kept} <= set(shared_machine.domains()), 20, "both domains")
    assert shared_machine.domain(kept)["shutdown"] == "reboot"
    for name in ("guest", kept):
        assert shared_machine.xenctl("destroy", name).returncode == 0


def test_a_killed_process_is_a_crashed_domain(shared_machine: Machine, tmp_path: Path) -> None:
    """K6: the control domain learns of it and the store fires the release watch; K5: nothing is left."""
    shared_machine.guest(tmp_path, STUBBORN)
    os.kill(shared_machine.domain("guest")["pid"], signal.SIGKILL)
    wait_until(lambda: set(shared_machine.domains()) == {"Domain-0"}, 10, "the end of the domain")


def test_list_of_one_domain_and_in_full(shared_machine: Machine, tmp_path: Path) -> None:
    shared_machine.guest(tmp_path, STUBBORN, name="web", extra='on_crash = "preserve"')
    (about,) = shared_machine.json("list", "web")
    assert about["config"]["on_crash"] == "preserve"
    shared_machine.xenctl("destroy", "web")


def test_a_domain_that_crashes_at_once_is_restarted_without_holding_others_up(
    shared_machine: Machine, tmp_path: Path
) -> None:
    shared_machine.guest(tmp_path, CRASHING, extra='on_crash = "restart"')
    shared_machine.guest(tmp_path, STUBBORN, name="other")
    base = shared_machine.domain("other")["domid"]
    wait_until(
        lambda: shared_machine.domains().get("guest", {"domid": 0})["domid"] > base + 1, 30, "two restarts"
    )
    wait_until(
        lambda: shared_machine.xenctl("destroy", "guest").returncode == 0, 10, "the end of the restarts"
    )
    shared_machine.xenctl("destroy", "other")
    assert set(shared_machine.domains()) == {"Domain-0"}


@pytest.mark.parametrize(
    ("limit", "said"), [("", ["version 2"]), ("max_grant_version = 1", ["ENOSYS", "version 1"])]
)
def test_max_grant_version_is_the_highest_a_domain_may_choose(
    limit: str, said: list[str], shared_machine: Machine, tmp_path: Path
) -> None:
    made = shared_machine.guest(tmp_path, CHOOSING_VERSION_2, "--console", name="chooser", extra=limit)
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-len(said) :] == said


def test_a_python_guest_of_several_vcpus_is_refused(shared_machine: Machine, tmp_path: Path) -> None:
    """Its process runs vCPU 0 alone. Linux, told of a vCPU that does not come up, dies of a kernel BUG at boot."""
    done = shared_machine.guest(tmp_path, STUBBORN, name="two", extra="vcpus = 2\nmaxvcpus = 4")
    assert done.returncode == 1
    assert "a Python guest has 1 vCPU, not 4" in done.stderr


SOFTLY_WRONG = 'cpus = "0"\ncpus_soft = "1"'
WARNING = "xenctl: warning: vCPU 0 of domain "


def test_what_differs_from_a_description_is_told_in_a_warning(machine: Machine, tmp_path: Path) -> None:
    done = machine.guest(tmp_path, STUBBORN, name="one", extra=SOFTLY_WRONG)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(WARNING)
    assert done.stderr.removeprefix("xenctl: warning: ").strip() in machine.xenctl("dmesg").stdout
    assert machine.xenctl("destroy", "one").returncode == 0


def test_who_follows_the_console_of_a_new_domain_is_warned_as_well(machine: Machine, tmp_path: Path) -> None:
    done = machine.guest(tmp_path, CRASHING, "--console", name="one", extra=SOFTLY_WRONG)
    assert done.stderr.splitlines()[0].startswith(WARNING)


@pytest.mark.parametrize("reason", [2, 5, 6, 77, 255, 256])
def test_whatever_reason_a_domain_gives_for_its_end_is_its_own_affair(
    clean_machine: Machine, tmp_path: Path, reason: int
) -> None:
    """A reason that Xen does not know once ended Dom0, and the machine with it. As by xl, such a domain is destroyed."""
    ending = f"class Probe(Guest):\n    def main(self) -> None:\n        self.kernel.shutdown({reason})\n"
    assert clean_machine.guest(tmp_path, ending, name="ending").returncode == 0
    if reason in (2, 5):
        named = {2: "suspend", 5: "soft_reset"}[reason]
        wait_until(lambda: clean_machine.domain("ending")["shutdown"] == named, what="its end")
        assert clean_machine.xenctl("destroy", "ending").returncode == 0
    else:
        wait_until(lambda: clean_machine.is_gone("ending"), what="its removal")
        named = "poweroff" if reason == 256 else f"unknown reason {reason}"
        assert f"(ending) shut down: {named}, destroy" in clean_machine.xenctl("dmesg").stdout
