"""Migrations to and fro between two machines, over TCP, under kills of source, target and connection at random moments:
afterwards exactly one domain runs, or none, if the machine that it ran on was killed; never two. `--steps` says how often.

Every order of events, with negative controls, is walked through in tests/domains/dom0/toolstack/migrating.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.domains.xenctl.cut_wire import Wire
from tests.domains.xenctl.wanderers import (
    NAME,
    create,
    is_running,
    kill,
    start_again,
    ticks,
    under_way,
    works_on,
)
from tests.guests.compiled import NEEDS, can_compile
from tests.machines import XENCTL, Machine, wait_until

STEPS = 6
DOINGS = ("nothing", "cut", "cut", "kill the source", "kill the target")
LONGEST = 1.5
"""Seconds after its beginning at which a migration is disturbed, at most."""

pytestmark = [pytest.mark.skipif(not can_compile(), reason=NEEDS)]


class Field:
    """Two machines that listen, and the wires to them."""

    def __init__(self, home: Path) -> None:
        self.machines = [Machine(options=("--listen", "127.0.0.1:0")) for _ in range(2)]
        self.wires: dict[str, Wire] = {}
        keys = [machine.xenctl("key").stdout.strip() for machine in self.machines]
        self.key = dict(zip((machine.name for machine in self.machines), keys, strict=True))
        folder = home / "config" / "xenoscope"
        folder.mkdir(parents=True)
        (folder / "authorized_keys").write_text("".join(f"{key}\n" for key in keys))
        for machine in self.machines:
            self.connect(machine)

    def connect(self, machine: Machine) -> None:
        """A wire to a machine that has started; the place stays if the machine is started again."""
        wire = self.wires.get(machine.name)
        listens = machine.info()["listens"]
        if wire is None:
            self.wires[machine.name] = Wire(listens)
        else:
            wire.retarget(listens)

    def migrate(self, source: Machine, target: Machine) -> subprocess.Popen[str]:
        place, key = self.wires[target.name].place, self.key[target.name]
        return subprocess.Popen(
            [*XENCTL, "migrate", NAME, f"tcp://{place}", "--key", key],
            env=source.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        for wire in self.wires.values():
            wire.close()
        for machine in self.machines:
            machine.stop()


@pytest.fixture
def field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Field]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    field = Field(tmp_path)
    try:
        yield field
    finally:
        field.close()


def runs_on(field: Field) -> list[Machine]:
    return [machine for machine in field.machines if is_running(machine)]


def is_settled(field: Field) -> bool:
    """No migration is under way, and no domain is here and not here."""
    names = [name for machine in field.machines for name in machine.domains()]
    return not any(under_way(machine) for machine in field.machines) and not any(
        "--" in name for name in names
    )


@pytest.mark.timeout(0)
def test_exactly_one_runs_after_migrations_under_kills(
    field: Field, tmp_path: Path, chance: random.Random, steps: int | None
) -> None:
    here, there = field.machines
    create(here, tmp_path)
    for step in range(steps or STEPS):
        count = ticks(here)
        doing = chance.choice(DOINGS)
        when = chance.uniform(0, LONGEST)
        moving = field.migrate(here, there)
        time.sleep(when)  # what is drawn at random is the moment itself
        killed = None
        if doing == "cut":
            field.wires[there.name].cut()
        elif doing.startswith("kill"):
            killed = here if doing == "kill the source" else there
            kill(killed)
            if killed is there:
                start_again(there, "--listen", "127.0.0.1:0")
                field.connect(there)
        out, errors = moving.communicate(timeout=120)
        story = f"step {step}: {doing} after {when:.3f} s: {moving.returncode} {out}{errors}"
        if killed is here:
            start_again(here, "--listen", "127.0.0.1:0")
            field.connect(here)
        wait_until(lambda: is_settled(field), 90, f"an end of {story}")
        running = runs_on(field)
        assert len(running) <= 1, story
        if killed is None:
            assert len(running) == 1, story
        if running:
            here = running[0]
            works_on(here, count if killed is None else 0)
        else:
            create(here, tmp_path)
        there = next(machine for machine in field.machines if machine is not here)
        assert there.domains().keys() == {"Domain-0"}, story
        wait_until(there.census_is_clean, 30, f"a clean census after {story}")
    here.end_domains()
    wait_until(here.census_is_clean, 30, "a clean census")
