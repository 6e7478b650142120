"""What a snapshot is made of and when it is refused, by guests that start at once; Linux is in test_snapshots.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from domains.control.address import MachineAddress
from domains.control.arguments import Arguments
from domains.control.client import ControlClient
from domains.control.operations import Destroy
from domains.control.protocol import ControlError
from domains.control.snapshot_operations import Fork, SnapshotDelete, TakeSnapshot
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.snapshots.kept import Kept
from domains.kernel.kernel import Kernel
from tests.guests.compiled import HERE, NEEDS, can_compile, compile_guest
from tests.machines import Machine, wait_until


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """One machine for all."""
    machine = Machine()
    try:
        yield machine
        machine.end_domains()
        wait_until(machine.census_is_clean, 30, "a clean census")
        log = machine.xenctl("dmesg").stdout
        assert not [bug for bug in ("Traceback", "toolstack failed") if bug in log], log
    finally:
        machine.stop()


def small_guest(machine: Machine, folder: Path, bits: int) -> None:
    """One that has suspended."""
    image = compile_guest(HERE / "suspend.c", folder / "suspend", bits)
    text = f'name = "small"\nkernel = "{image}"\nmemory = 4\nvcpus = 2\non_crash = "destroy"\n'
    done = machine.create(folder, text)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: "s" in machine.domain("small")["state"], 40, "the guest's suspend")


def refused(machine: Machine, *words: str) -> str:
    done = machine.xenctl(*words)
    assert done.returncode != 0
    assert not done.stdout
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@pytest.mark.needs_headers
@pytest.mark.skipif(not can_compile(), reason=NEEDS)
@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("in_file", [False, True])
def test_a_guest_finds_all_as_it_left_it(machine: Machine, tmp_path: Path, bits: int, in_file: bool) -> None:
    """One that suspends by itself, again and again; in a fork it finds that it was restored, and that all is right."""
    small_guest(machine, tmp_path, bits)
    before = machine.xenctl("dmesg").stdout.count("SUCCESS")
    taken = machine.json("snapshot", "small", "kept", *(["--folder", str(tmp_path)] if in_file else []))
    assert bool(taken["memory_bytes"]) is not in_file
    assert bool(taken["file_bytes"]) is in_file
    assert 0 < taken["memory_bytes"] + taken["file_bytes"] < 4 << 20, "pages that are zero are kept"
    names = [machine.json("fork", "kept")["name"] for _ in range(3)]
    assert names == ["kept-1", "kept-2", "kept-3"]
    wait_until(lambda: all(machine.is_gone(name) for name in names), 40, "the forks' ends")
    assert machine.xenctl("dmesg").stdout.count("SUCCESS") == before + 3
    assert machine.json("snapshot-list")[0]["forks"] == 3
    assert machine.xenctl("snapshot-delete", "kept").returncode == 0
    machine.destroy("small")
    assert not list(tmp_path.glob("*snapshot*"))


@pytest.mark.needs_headers
@pytest.mark.skipif(not can_compile(), reason=NEEDS)
def test_all_at_once_leaves_nothing(machine: Machine, tmp_path: Path) -> None:
    """Snapshots that are deleted while forks of them are made, and an original that is destroyed while it is kept: each request
    is done or refused, and a name is free again. (The machine's log is looked at when it ends.)
    """
    for turn in range(6):
        small_guest(machine, tmp_path, 64)
        requests: list[Arguments[Any]] = [TakeSnapshot("small", "kept"), *[Fork("kept")] * turn]
        requests += [SnapshotDelete("kept"), Destroy("small"), *[Fork("kept")] * 2]
        with ControlClient(MachineAddress.in_folder(machine.folder), timeout=60) as client:
            waiting = {client.post(one) for one in requests[: 1 + turn]}
            if turn % 2:
                first = client.receive(60)
                assert first is not None
                waiting.discard(first.id)
            waiting |= {client.post(one) for one in requests[1 + turn :]}
            while waiting:
                reply = client.receive(60)
                assert reply is not None, f"no answer to {waiting}"
                waiting.discard(reply.id)
                with suppress(ControlError):
                    reply.result()
        with suppress(ControlError):
            machine.ask(SnapshotDelete("kept"))
        machine.end_domains()
        wait_until(machine.census_is_clean, 30, "a clean census")
        assert machine.info()["snapshot_bytes"] == 0


def test_what_cannot_be_kept_is_told_in_a_line_and_goes_on(machine: Machine, tmp_path: Path) -> None:
    body = "class Probe(Guest):\n    def main(self):\n        while True:\n            self.kernel.sleep(1)\n"
    done = machine.guest(tmp_path, body, name="python")
    assert done.returncode == 0, done.stderr
    assert "is a guest in Python" in refused(machine, "snapshot", "python", "kept")
    assert "there is no domain 'nobody'" in refused(machine, "snapshot", "nobody", "kept")
    assert "a snapshot's name" in refused(machine, "snapshot", "python", "a b")
    assert "there is no snapshot 'kept'" in refused(machine, "fork", "kept")
    assert "there is no snapshot 'kept'" in refused(machine, "snapshot-delete", "kept")
    assert machine.json("snapshot-list") == []
    assert machine.info()["snapshot_bytes"] == 0
    machine.destroy("python")


def test_snapshots_take_no_more_memory_than_they_may() -> None:
    """Negative control: without the comparison in `write` nothing is refused."""
    kept = Kept(cast(Kernel, None), None, lambda: 10)
    list(kept.open())
    with pytest.raises(ToolstackError, match="as much of the host's memory as the machine has"):
        next(kept.write([b"12345", b"678901"]))
    kept.close()
