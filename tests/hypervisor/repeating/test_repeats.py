"""A machine with a seed repeats itself: real machines, each started anew, beside processes that take the host's CPUs.

Negative control: a guest that looks at the host's clock, and does something else each time for it, gives another hash each time
(`test_a_guest_that_sees_the_host_is_noticed`): so the hash is not one that cannot differ.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from domains.control.protocol import Exit
from tests.guests.compiled import HERE, NEEDS, can_compile, compile_guest, compile_pvh_guest
from tests.machines import REPOSITORY, XENCTL, Machine

RUN_SECONDS = 300
TIMES = 5
"""How often the same run is made; `--steps 20` makes it twenty times, which takes minutes."""
BUSY = 2
"""Processes that do nothing but take the host's time."""

RACERS = """
from domains.kernel.guest import Guest

class Racer(Guest):
    def main(self):
        kernel = self.kernel
        for lap in range(4):
            end = kernel.now() + 2_000_000
            while kernel.now() < end:
                pass
            print(f"lap {lap} at {kernel.now()}")
            kernel.sleep(kernel.chance.random() / 100)

class Sleeper(Guest):
    def main(self):
        for _ in range(60):
            self.kernel.sleep(60)
        print("an hour has passed")

class Leak(Guest):
    def main(self):
        import time
        print(time.clock_gettime_ns(time.CLOCK_REALTIME))

class Mortal(Guest):
    def main(self):
        import os, signal
        kernel, meter = self.kernel, self.kernel.cpu.gate.meter
        left, count = kernel.chance.randrange(2000), meter.count

        def live():
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            count()

        meter.count = live
        while True:
            page = kernel.memory.alloc_page()
            print(f"page {page.va:x}")
            kernel.memory.free_page(page)

class Liar(Guest):
    def main(self):
        meter = self.kernel.cpu.gate.meter
        for lie in (0, (1 << 64) - 1):
            meter.hand_in = lambda vcpu, lie=lie: meter._sheet.hand_in(vcpu, lie)
            before = meter.resume
            for _ in range(50):
                self.kernel.hypercalls.hypercall_xen_version(0)
            assert before < meter.resume < before + 50 * 25_000_000, (before, meter.resume)
        print("time went on, within its bounds")
"""

TOPOLOGY = """
name: everything
networks:
  lan: {{subnet: 10.0.0.0/24}}
domains:
  racer: {{replicas: 2, kernel: "python:{guests}:Racer", memory: 8}}
  server: {{kernel: "python:domains.guests.webserver:WebServer", memory: 8, networks: [lan]}}
  client: {{kernel: "python:domains.guests.webclient:WebClient", memory: 8, networks: [lan],
           extra: "http://${{server.ip.lan}}/bytes/20000"}}
  disk: {{kernel: "python:domains.guests.blockcheck:BlockCheck", memory: 8, disks: [{{size: 256KiB}}]}}
"""
MACHINE_CODE = """  timer: {{kernel: "{image}", memory: 8}}
"""


def run(*words: str | Path, code: Exit = Exit.OK) -> dict[str, Any]:
    """What `xenctl run --json` says."""
    done = subprocess.run(
        [*XENCTL, "run", *map(str, words), "--json"],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@contextmanager
def busy_host() -> Iterator[None]:
    """Meanwhile the host has other things to do."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.fixture
def guests(tmp_path: Path) -> Path:
    path = tmp_path / "racers.py"
    path.write_text(RACERS)
    return path


@pytest.fixture
def everything(tmp_path: Path, guests: Path) -> Path:
    """A topology of Python guests, one of machine code, a disk and a network."""
    text = TOPOLOGY.format(guests=guests)
    if can_compile():
        image = compile_guest(REPOSITORY / "tests/guests/timer.c", tmp_path / "timer.elf")
        text += MACHINE_CODE.format(image=image)
    path = tmp_path / "everything.yaml"
    path.write_text(text)
    return path


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.skipif(not can_compile(), reason=NEEDS)
def test_one_seed_gives_one_run_each_time_on_a_busy_host(everything: Path, steps: int | None) -> None:
    first = run(everything, "--seed", "11", "--for", "1")
    ended = {name: about["ended"] for name, about in first["domains"].items()}
    assert ended.pop("server") == "paused", "a server does not end"
    assert set(ended.values()) == {"poweroff"}, ended
    assert len(ended) == 5
    with busy_host():
        for number in range(1, steps or TIMES):
            again = run(everything, "--seed", "11", "--for", "1")
            assert again["run_hash"] == first["run_hash"], f"run {number}"
            assert again["domains"] == first["domains"]
            assert again["system_seconds"] == first["system_seconds"]
    other = run(everything, "--seed", "12", "--for", "1")
    assert other["run_hash"] != first["run_hash"]
    assert other["domains"]["racer-1"]["console"] != first["domains"]["racer-1"]["console"]


def test_an_hour_asleep_is_an_hour_of_the_machine(guests: Path) -> None:
    result = run(f"python:{guests}:Sleeper", "--seed", "1", "--memory", "8")
    assert result["domains"]["guest"]["console"] == "an hour has passed\r\n"
    assert 3600 <= result["system_seconds"] < 3601


def test_a_guest_that_sees_the_host_is_noticed(guests: Path) -> None:
    first, second = (run(f"python:{guests}:Leak", "--seed", "1", "--memory", "8") for _ in range(2))
    assert first["run_hash"] != second["run_hash"]


def test_a_process_that_lies_about_its_work_stops_no_clock(guests: Path) -> None:
    result = run(f"python:{guests}:Liar", "--seed", "1", "--memory", "8")
    assert result["domains"]["guest"]["console"] == "time went on, within its bounds\r\n"


@pytest.mark.parametrize("seed", [5, 6])
def test_a_process_that_is_killed_at_any_point_of_its_work_dies_there_again(guests: Path, seed: int) -> None:
    """Nothing is left of it either time: the run ends when its domain is gone."""
    first, second = (
        run(f"python:{guests}:Mortal", "--seed", str(seed), "--memory", "8", code=Exit.CRASHED)
        for _ in range(2)
    )
    assert first["domains"]["guest"] == second["domains"]["guest"]
    assert first["domains"]["guest"]["ended"] == "crash"
    assert first["run_hash"] == second["run_hash"]


@pytest.mark.skipif(not can_compile(), reason=NEEDS)
@pytest.mark.parametrize("hap", ["1", "0"], ids=["nested", "shadow"])
def test_a_pvh_guests_clock_is_its_work(tmp_path: Path, hap: str) -> None:
    """A million blocks between two looks at the clock."""
    image = compile_pvh_guest(tmp_path / "clock", HERE / "pvh_clock.S")
    words = (image, "--type", "pvh", "--hap", hap, "--memory", "16", "--seed", "4")
    first, second = run(*words), run(*words)
    said = first["domains"]["guest"]["console"].split()
    before, after = (sum((ord(c) - ord("a")) << 4 * (7 - i) for i, c in enumerate(word)) for word in said)
    assert 10_000_000 <= after - before < 20_000_000
    assert first["domains"] == second["domains"]
    assert first["run_hash"] == second["run_hash"]


def test_a_started_machine_tells_its_hash_and_what_disturbed_it(tmp_path: Path) -> None:
    machine = Machine(options=("--seed", "3"), under=("env",))  # a process that can begin anew
    try:
        before = machine.info()
        assert (before["seed"], before["nr_cpus"], before["system_time_ns"]) == (3, 1, 0)
        done = machine.create(
            tmp_path, 'name = "idle"\nkernel = "python:domains.guests.idle:Idle"\nmemory = 8\n'
        )
        assert done.returncode == 0, done.stderr
        after = machine.info()
        assert after["run_hash"] != before["run_hash"]
        machine.destroy("idle")
        counters = {counter["name"]: counter["value"] for counter in machine.info()["counters"]}
        assert counters["inputs while guests ran"] > 0
    finally:
        machine.stop()


def test_a_seed_and_several_cpus_are_refused() -> None:
    done = subprocess.run(
        [*XENCTL, "start", "--seed", "1", "--cpus", "2"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode == 2
    assert "one CPU, not 2" in done.stderr
