"""Machines as a user sees them: started once however often it is asked for, ended without a trace, told
apart by name.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import uuid
from pathlib import Path

import pytest

from tests.machines import REPOSITORY, XENCTL, Machine, pids_of, wait_until


def test_info_tells_of_memory_cpus_and_paths(shared_machine: Machine) -> None:
    info = shared_machine.json("info")
    assert info["machine"] == shared_machine.name
    assert info["total_frames"] == 512 * 256
    assert 0 < info["free_frames"] < info["total_frames"]
    assert info["domains"] == 1
    assert Path(info["xenstored_path"]).is_socket()
    counters = {one["name"]: one["value"] for one in info["counters"]}
    assert counters["hypercalls"] > 0
    assert shared_machine.name in shared_machine.xenctl("info").stdout


def test_a_machine_that_runs_is_not_started_again(shared_machine: Machine) -> None:
    again = shared_machine.xenctl("start")
    assert again.returncode == 1
    assert "running already" in again.stderr


def test_of_many_starts_at_once_one_wins_and_all_creates_find_the_machine(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "XENCTL_MACHINE": f"t{uuid.uuid4().hex[:10]}",
        "PYTHONPATH": str(REPOSITORY),
    }
    description = tmp_path / "idle.cfg"
    description.write_text('name = "idle"\nkernel = "python:domains.guests.idle:Idle"\nmemory = 8\n')
    words = [[*XENCTL, "create", str(description), f"name=idle{i}"] for i in range(3)]
    running = [
        subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for line in words
    ]
    try:
        results = [(process.communicate(timeout=60), process.returncode) for process in running]
        assert [code for _, code in results] == [0, 0, 0], results
        listed = subprocess.run(
            [*XENCTL, "list", "--json"], env=environment, capture_output=True, check=True, timeout=30
        )
        assert {about["name"] for about in json.loads(listed.stdout)} == {
            "Domain-0",
            "idle0",
            "idle1",
            "idle2",
        }
    finally:
        subprocess.run([*XENCTL, "stop"], env=environment, capture_output=True, check=True, timeout=30)


def test_commands_without_a_machine_say_how_to_start_one() -> None:
    environment = {**os.environ, "XENCTL_MACHINE": f"t{uuid.uuid4().hex[:10]}", "PYTHONPATH": str(REPOSITORY)}
    for words in (["list"], ["info"], ["stop"], ["console", "x"], ["xenstore-ls"]):
        done = subprocess.run([*XENCTL, *words], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "xenctl start" in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "words", [["frob"], ["create"], ["list", "--frob"], ["start", "--memory", "1"], ["--frob"]]
)
def test_wrong_words_are_exit_code_2_in_one_line(words: list[str]) -> None:
    done = subprocess.run([*XENCTL, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout


def test_machines_of_different_names_know_nothing_of_each_other(machine: Machine, tmp_path: Path) -> None:
    other = Machine()
    try:
        text = 'name = "idle"\nkernel = "python:domains.guests.idle:Idle"\nmemory = 8\n'
        assert machine.create(tmp_path, text).returncode == 0
        assert set(other.domains()) == {"Domain-0"}
        named = other.xenctl("--machine", machine.name, "list", "--json")
        assert {about["name"] for about in json.loads(named.stdout)} == {"Domain-0", "idle"}
    finally:
        other.stop()


def test_stop_ends_every_domain_and_removes_the_folder(machine: Machine, tmp_path: Path) -> None:
    text = 'name = "idle"\nkernel = "python:domains.guests.idle:Idle"\nmemory = 8\n'
    machine.create(tmp_path, text)
    stopped = machine.xenctl("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert not pids_of(machine.supervisor)
    wait_until(lambda: not machine.folder.exists(), 2, "the removal of the folder")


def test_after_a_killed_core_the_machine_can_be_started_again(machine: Machine) -> None:
    children = set(pids_of(machine.supervisor)) - {machine.supervisor}
    core = next(pid for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == "xeno-core")
    os.kill(core, signal.SIGKILL)
    wait_until(lambda: not machine.folder.exists(), 5, "the removal of the folder")
    assert machine.xenctl("list").returncode == 1
    again = machine.xenctl("start")
    assert again.returncode == 0, again.stderr
    machine.supervisor = int(machine.json("info")["supervisor_pid"])


def test_a_machine_that_cannot_even_be_loaded_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('numpy is broken here')\n")
    runtime = tmp_path / "run"
    environment = {
        **os.environ,
        "XDG_RUNTIME_DIR": str(runtime),
        "PYTHONPATH": f"{tmp_path}:{REPOSITORY}",
    }
    runtime.mkdir()
    done = subprocess.run(
        [*XENCTL, "start", "--machine", "m"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "xenctl: machine 'm' did not start: ImportError: numpy is broken here\n"
    assert not list(runtime.glob("xenoscope/*"))


def test_the_hypervisors_log_tells_of_domains(shared_machine: Machine, tmp_path: Path) -> None:
    text = 'name = "hello"\nkernel = "python:domains.guests.hello:Hello"\nmemory = 8\n'
    shared_machine.create(tmp_path, text, "-c")
    assert "hello" in shared_machine.xenctl("dmesg").stdout
    assert any("hello" in line for line in shared_machine.json("dmesg"))
    shared_machine.xenctl("dmesg", "--clear")
    assert "hello" not in shared_machine.xenctl("dmesg").stdout


def test_json_is_printed_by_every_command_that_acts(shared_machine: Machine, tmp_path: Path) -> None:
    text = 'name = "idle"\nkernel = "python:domains.guests.idle:Idle"\nmemory = 8\n'
    made = shared_machine.create(tmp_path, text, "--json")
    assert json.loads(made.stdout)["name"] == "idle"
    for words in (
        ["pause", "idle"],
        ["unpause", "idle"],
        ["domid", "idle"],
        ["domname", "idle"],
        ["destroy", "idle"],
    ):
        shared_machine.json(*words)


@pytest.mark.needs_xenstore_utils
def test_xens_own_client_sees_what_xenctl_shows(machine: Machine, tmp_path: Path) -> None:
    if shutil.which("xenstore-ls") is None:
        pytest.skip("xenstore-ls is not installed")
    text = 'name = "idle"\nkernel = "python:domains.guests.idle:Idle"\nmemory = 8\n'
    machine.create(tmp_path, text, "-p")
    environment = {**machine.environment, "XENSTORED_PATH": machine.xenstored_path}
    theirs = subprocess.run(
        ["xenstore-ls", "-f"], env=environment, capture_output=True, text=True, check=True, timeout=20
    )
    ours = machine.xenctl("xenstore-ls", "-f").stdout
    assert sorted(theirs.stdout.splitlines()) == sorted(
        line for line in ours.splitlines() if line[:3] != "/ ="
    )
    domid = machine.domain("idle")["domid"]
    nodes = {row["path"]: row for row in machine.json("xenstore-ls", f"/local/domain/{domid}")}
    home = f"/local/domain/{domid}"
    assert nodes[f"{home}/name"]["value"] == "idle"
    assert nodes[home]["permissions"] == ["n0", f"r{domid}"]
    assert nodes[f"{home}/data"]["permissions"] == [f"n{domid}"]
    assert nodes[f"{home}/store"]["permissions"] == ["n0", f"r{domid}"]
