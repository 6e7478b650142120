"""xenctl migrate between two real machines, with a guest of a few MiB that checks its memory: it moves, or it stays, whole."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from tests.domains.xenctl import wanderers
from tests.domains.xenctl.wanderers import (
    NAME,
    create,
    is_running,
    migrate,
    ticks,
    under_way,
    works_on,
)
from tests.guests.compiled import NEEDS, can_compile
from tests.machines import Machine, wait_until

pytestmark = [
    pytest.mark.skipif(not can_compile(), reason=NEEDS),
    pytest.mark.timeout(300),
]

Two = tuple[Machine, Machine]


def decisions(home: Path, machine: Machine) -> list[str]:
    """The files of a machine's journal."""
    folder = home / "state" / "xenoscope" / "migrations" / machine.name
    return [entry.name for entry in folder.iterdir()] if folder.exists() else []


def test_a_domain_moves_and_moves_back_and_forgets_nothing(two: Two, home: Path, tmp_path: Path) -> None:
    here, there = two
    create(here, tmp_path, 'vif = [ "mac=00:16:3e:00:00:07" ]')
    before = here.domain(NAME)
    for source, target in ((here, there), (there, here)):
        count = ticks(source)
        done = migrate(source, target, "--progress")
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(
            rf"domain {NAME} runs on {target.name} with id \d+: [\d.]+ s in all, stood still for \d+ ms;"
            r" \d+ rounds?, [\d.]+ MiB, .*\n",
            done.stdout,
        )
        assert re.search(r"^xenctl: round 1: \d+ pages, ", done.stderr, re.MULTILINE)
        assert re.search(r"^xenctl: suspended: \d+ pages, ", done.stderr, re.MULTILINE)
        works_on(target, count)
        assert source.is_gone(NAME)
        wait_until(source.census_is_clean, 30, "a clean census")
    after = here.domain(NAME)
    assert wanderers.data(here, "moves") == 2
    assert after["uuid"] == before["uuid"]
    assert after["config"]["vifs"] == before["config"]["vifs"]
    wait_until(lambda: not decisions(home, here) and not decisions(home, there), 10, "forgotten decisions")


def test_rounds_are_as_many_as_asked_for(two: Two, tmp_path: Path) -> None:
    here, there = two
    create(here, tmp_path)
    told = here.json("migrate", NAME, there.name, "--max-rounds", "0")
    assert [done["number"] for done in told["rounds"]] == [None]
    told = there.json("migrate", NAME, here.name, "--max-rounds", "2", "--bandwidth", "50", "-p")
    assert [done["number"] for done in told["rounds"]][-1] is None
    assert len(told["rounds"]) <= 3
    assert 0 < told["downtime_seconds"] <= told["total_seconds"]
    assert told["bytes"] == sum(done["bytes"] for done in told["rounds"])
    assert not is_running(here)
    assert here.xenctl("unpause", NAME).returncode == 0
    works_on(here, ticks(here))


def test_what_cannot_be_is_refused_in_a_line_and_nothing_begins(two: Two, tmp_path: Path) -> None:
    here, there = two
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    create(here, tmp_path, f"disk = [ '{image},raw,xvda,w' ]")

    def refused(why: str, *words: str) -> None:
        done = here.xenctl("migrate", *words)
        assert done.returncode != 0
        assert re.search(why, done.stderr), done.stderr
        assert len(done.stderr.splitlines()) == 1

    refused("there is no domain 'nobody'", "nobody", there.name)
    refused("machine 'no-such-machine' is not running", NAME, "no-such-machine")
    refused(f"runs on machine '{here.name}' already", NAME, here.name)
    refused("64 hexadecimal digits", NAME, "tcp://localhost:1", "--key", "abc")
    refused("known_machines", NAME, "tcp://localhost:1")
    refused("--key goes with tcp://", NAME, there.name, "--key", "0" * 64)
    for place in ("localhost:99999", "localhost:0", "localhost", "", "::1:7800"):
        refused(f"'{place}' is no HOST:PORT", NAME, f"tcp://{place}", "--key", "0" * 64)
        refused(f"'{place}' is no HOST:PORT", NAME, f"tcp://{place}")
    refused("no machine listens there.*goes on here", NAME, "tcp://localhost:1", "--key", "0" * 64)
    for option in ("-s", "-C"):
        refused(f"^xenctl: {option}: ", NAME, there.name, option, "x")
    refused("^xenctl: -D: ", NAME, there.name, "-D")
    image.rename(tmp_path / "away.img")
    refused("disk xvda", NAME, there.name)
    (tmp_path / "away.img").rename(image)
    assert here.xenctl("pause", NAME).returncode == 0
    refused("is paused", NAME, there.name)
    assert here.xenctl("unpause", NAME).returncode == 0
    create(there, tmp_path)
    refused(f"machine '{there.name}': domain '{NAME}' exists already.*goes on here", NAME, there.name)
    works_on(here, ticks(here))
    works_on(there, ticks(there))
    assert under_way(here) == under_way(there) == []


def test_a_guest_in_python_does_not_move(two: Two, tmp_path: Path) -> None:
    here, there = two
    done = here.guest(tmp_path, "class Probe(Guest):\n    def main(self):\n        self.kernel.sleep(1000)\n")
    assert done.returncode == 0, done.stderr
    done = here.xenctl("migrate", "guest", there.name)
    assert done.returncode != 0
    assert "Python" in done.stderr


def test_a_target_without_memory_says_so(home: Path, tmp_path: Path) -> None:
    here, there = Machine(), Machine(memory=36)
    try:
        create(here, tmp_path, "maxmem = 64")
        done = migrate(here, there)
        if done.returncode == 0:  # it takes 8 of the 64
            works_on(there, 0)
        else:
            assert "MiB" in done.stderr
            works_on(here, ticks(here))
    finally:
        here.stop()
        there.stop()


def test_a_disk_is_handed_over_or_copied(two: Two, home: Path, tmp_path: Path) -> None:
    here, there = two
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(3 << 20) + bytes(1 << 20) + b"end")
    create(here, tmp_path, f"disk = [ '{image},raw,xvda,w' ]")
    assert migrate(here, there).returncode == 0
    works_on(there, 0)
    assert there.domain(NAME)["config"]["disks"][0]["target"] == str(image)
    assert migrate(there, here, "--copy-disks").returncode == 0
    copy = Path(here.domain(NAME)["config"]["disks"][0]["target"])
    assert copy != image
    assert copy.read_bytes() == image.read_bytes()
    assert copy.stat().st_mode & 0o777 == 0o600
    assert (home / "state" / "xenoscope" / "images" / here.name) in copy.parents


# --- over TCP ----------------------------------------------------------------------------------------


def key_of(machine: Machine) -> str:
    return machine.xenctl("key").stdout.strip()


def listening(home: Path) -> tuple[Machine, str]:
    """A machine that listens, and where."""
    machine = Machine(options=("--listen", "127.0.0.1:0"))
    return machine, f"tcp://{machine.info()['listens']}"


def test_a_domain_moves_to_a_machine_that_knows_the_other(home: Path, tmp_path: Path) -> None:
    here, (there, place) = Machine(), listening(home)
    config = home / "config" / "xenoscope"
    try:
        create(here, tmp_path)
        count = ticks(here)
        done = migrate(here, place, "--key", key_of(there))
        assert done.returncode != 0
        assert key_of(here) in done.stderr
        assert "goes on here" in done.stderr
        (config / "authorized_keys").write_text(f"{key_of(here)} here\n")
        done = migrate(here, place, "--key", key_of(here))
        assert done.returncode != 0
        assert "that key" in done.stderr
        (config / "known_machines").write_text(f"{place.removeprefix('tcp://')} {key_of(there)}\n")
        done = migrate(here, place)
        assert done.returncode == 0, done.stderr
        works_on(there, count)
        wait_until(here.census_is_clean, 30, "a clean census")
    finally:
        here.stop()
        there.stop()


def test_a_port_that_is_taken_is_told_and_no_machine_starts(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AssertionError, match=f"cannot listen at {place}"):
            Machine(options=("--listen", place))
    with pytest.raises(AssertionError, match="is no HOST:PORT"):
        Machine(options=("--listen", "7800"))
