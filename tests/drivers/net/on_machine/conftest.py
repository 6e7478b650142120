"""One machine for all tests of a module; nothing may be left on it between two of them."""

from collections.abc import Iterator

import pytest

from tests.machines import Machine, wait_until


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.stop()


@pytest.fixture(autouse=True)
def nothing_is_left(machine: Machine) -> Iterator[None]:
    yield
    machine.end_domains()
    wait_until(machine.census_is_clean, what="a clean census")
