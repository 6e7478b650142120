"""However a pytest with machines ends, nothing of them is left, its own helper neither; unless they are to be kept.

Control: with --xen-keep a machine is left, so what is looked at would be seen.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from domains.xenctl.folder import supervisor_pid
from tests.domains.testing.projects import (
    Project,
    all_end,
    kill_session,
    machines_of,
    parent_of,
    places_of,
    runtime,
)
from tests.machines import XENCTL, pids_of

ENDLESS = """
import time

import pytest


@pytest.mark.parametrize("n", [1, 2])
def test_it(xen_domain, n):
    xen_domain("python:./guests.py:Idle", memory=8).expect("here")
    time.sleep(100)
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, ENDLESS)


@pytest.fixture
def folder() -> Iterator[str]:
    with runtime() as folder:
        yield folder


@pytest.mark.parametrize(
    ("number", "options", "count"),
    [
        (signal.SIGKILL, (), 1),
        (signal.SIGKILL, ("-n", "2"), 2),
        (signal.SIGTERM, (), 1),
        (signal.SIGINT, (), 1),
    ],
)
def test_a_pytest_that_is_killed_leaves_nothing(
    project: Project, folder: str, number: int, options: tuple[str, ...], count: int
) -> None:
    running = project.start("-q", *options, runtime=folder)
    try:
        pids = machines_of(folder, count)
        assert len(pids) >= 5 * count
        running.send_signal(number)
        running.wait(40)
        all_end(folder, pids)
    finally:
        kill_session(running)


def test_a_worker_that_is_killed_leaves_nothing_and_the_others_go_on(project: Project, folder: str) -> None:
    running = project.start("-q", "-n", "2", "--max-worker-restart=0", runtime=folder)
    try:
        machines_of(folder, 2)
        place, other = places_of(folder)
        supervisor = supervisor_pid(place)
        assert supervisor is not None
        keeper = parent_of(supervisor)
        pids = [*pids_of(supervisor), keeper]
        os.kill(parent_of(keeper), signal.SIGKILL)
        others = supervisor_pid(other)
        all_end(str(place), pids)
        assert others is not None
    finally:
        kill_session(running)


def test_the_end_of_the_process_that_keeps_machines_ends_them_and_fails_the_test(
    project: Project, folder: str
) -> None:
    running = project.start("-q", "-k", "1", runtime=folder)
    try:
        pids = machines_of(folder, 1)
        os.kill(pids[-1], signal.SIGKILL)
        output, _ = running.communicate(timeout=60)
        assert "the machine has died" in output or "the machine has ended" in output
        assert running.returncode == 1
        all_end(folder, pids)
    finally:
        kill_session(running)


def test_a_machine_that_is_to_be_kept_is_there_until_it_is_stopped(tmp_path: Path, folder: str) -> None:
    tests = """
def test_well(xen_domain):
    xen_domain("python:./guests.py:Idle", memory=8).expect("here")


def test_it(xen_domain):
    xen_domain("python:./guests.py:Idle", memory=8).expect("here")
    assert False
"""
    running = Project(tmp_path, tests).start("-q", "--xen-keep", runtime=folder)
    output, _ = running.communicate(timeout=60)
    pids = machines_of(folder, 1)
    (place,) = places_of(folder)
    assert f"xenctl stop --machine {place.name}" in output
    environment = {**os.environ, "XDG_RUNTIME_DIR": folder, "XENCTL_MACHINE": place.name}
    listed, stopped = (
        subprocess.run([*XENCTL, word], env=environment, capture_output=True, text=True, check=False)
        for word in ("list", "stop")
    )
    assert "guest" in listed.stdout
    assert stopped.returncode == 0, stopped.stderr
    all_end(folder, pids)
