"""The stack and Linux's own, on one wire: they understand each other, on a good network and on a bad one."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.machines import REPOSITORY


def meet(scenario: str, loss: float = 0.0) -> Any:
    """What came of a scenario of linux_neighbour.py."""
    command = [sys.executable, "-m", "tests.drivers.net.ip.linux_neighbour", scenario, str(loss)]
    environment = {
        **os.environ,
        "OPENBLAS_NUM_THREADS": "1",
    }  # who enters a user namespace may have no threads
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    if done.stdout.startswith("unavailable"):
        pytest.skip(f"no TAP device in a network namespace of one's own: {done.stdout.strip()}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("loss", [0.0, 0.02])
@pytest.mark.parametrize("scenario", ["connect", "accept"])
def test_a_megabyte_each_way_arrives_whole(scenario: str, loss: float) -> None:
    assert meet(scenario, loss) == {"here": True, "there": True}


def test_each_refuses_what_nobody_listens_for() -> None:
    assert meet("refuse") == {"here": "ConnectionRefusedError", "there": "ConnectionRefusedError"}


def test_datagrams_and_pings_are_understood() -> None:
    assert meet("datagrams") == {"there": "olleh", "ping": "ping"}
