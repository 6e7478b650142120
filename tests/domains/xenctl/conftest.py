"""Two machines between which domains move, with folders for keys and decisions of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.domains.xenctl.wanderers import under_way
from tests.machines import Machine, wait_until

Two = tuple[Machine, Machine]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of the test's own for keys and decisions."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "xenoscope").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def two(home: Path) -> Iterator[Two]:
    """Two machines; in the end nothing is left of either's domains."""
    machines = Machine(), Machine()
    try:
        yield machines
        for machine in machines:
            machine.end_domains()
            wait_until(partial(has_no_migration, machine), 60, "the end of migrations")
            wait_until(machine.census_is_clean, 30, "a clean census")
    finally:
        for machine in machines:
            machine.stop()


def has_no_migration(machine: Machine) -> bool:
    return not under_way(machine)
