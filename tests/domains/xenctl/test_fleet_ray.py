"""A fleet whose hosts Ray holds: it comes up, survives the loss of an agent, and goes down. Only with the option --ray, and
with the extra `fleet` installed: Ray takes 300 MB of disk, as much memory, and ten seconds to begin.
"""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.domains.xenctl.fleets import FleetOfTests, kill
from tests.machines import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

CLUSTER = (
    "start --head --block --node-ip-address=127.0.0.1 --port=0 --include-dashboard=false --num-cpus=1"
    " --object-store-memory=100000000 --disable-usage-stats"
)


@pytest.fixture
def ray_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a cluster of one node, which ends with the process that has begun it."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    program = str(Path(sys.executable).parent / "ray")
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        command = [program, *CLUSTER.split(), f"--temp-dir={folder}", '--resources={"xen_mib": 1024}']
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as ray:
            try:
                assert ray.stdout is not None
                found = (re.search(r"--address='[\d.]+(:\d+)'", line) for line in ray.stdout)
                yield "127.0.0.1" + next(one[1] for one in found if one is not None)
            finally:
                ray.terminate()
                ray.communicate(timeout=60)


def test_ray_holds_the_hosts_of_a_fleet(ray_address: str, tmp_path: Path) -> None:
    rest = f"engine: ray\nray_address: {ray_address}\nlease: {{lasts: 2s, renew: 500ms, margin: 1s}}\n"
    fleet = FleetOfTests(tmp_path, "  a: {memory: 112}\n  b: {memory: 112}\n", rest)
    try:
        up = fleet.run("up", timeout=200)
        assert up.returncode == 0, up.stderr + fleet.log()
        assert set(fleet.places().values()) == {"a", "b"}
        host = fleet.places()["db"] or ""
        kill(fleet.pid_of(host))
        wait_until(lambda: fleet.places().get("db") not in (None, host), 15, "the start of db elsewhere")
        again = fleet.run("up", timeout=200)
        assert again.returncode == 0, again.stderr + fleet.log()
        assert [one["state"] for one in fleet.status()["hosts"]] == ["up", "up"]
    finally:
        fleet.down("a", "b")
