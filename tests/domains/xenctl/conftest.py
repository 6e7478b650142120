"""A machine that the tests of one module share; each must leave it as it found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machines import Machine, wait_until


@pytest.fixture(scope="module")
def lasting_machine() -> Iterator[Machine]:
    machine = Machine()
    try:
        yield machine
    finally:
        machine.stop()


@pytest.fixture
def shared_machine(lasting_machine: Machine) -> Iterator[Machine]:
    """At the end of the test nothing of its domains is left: no frame, no process, no node."""
    yield lasting_machine
    try:
        wait_until(lasting_machine.census_is_clean, 10, "a clean census")
    finally:
        for name in set(lasting_machine.domains()) - {"Domain-0"}:
            lasting_machine.xenctl("destroy", name)
    nodes = lasting_machine.xenctl("xenstore-ls", "-f").stdout
    for path in ("/local/domain/1", "/libxl/", "/vm/", "/console/1", "/vbd/1"):
        assert path not in nodes
