"""Our own PV guests, machine code from C, on a real machine: each file beside this one is one guest and tells one property."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests.compiled import HERE, NEEDS, can_compile, compile_guest
from tests.machines import Machine, wait_until

GUESTS = sorted(path.stem for path in HERE.glob("*.c"))
needs_compiler = pytest.mark.skipif(not can_compile(), reason=NEEDS)


@pytest.fixture(scope="module")
def guests_machine() -> Iterator[Machine]:
    """One machine for all guests, which run one after the other."""
    machine = Machine()
    try:
        yield machine
        wait_until(machine.census_is_clean, 10, "a clean census")
    finally:
        machine.stop()


@needs_compiler
@pytest.mark.needs_headers
@pytest.mark.parametrize("name", GUESTS)
def test_guest(guests_machine: Machine, tmp_path: Path, name: str) -> None:
    machine, image = guests_machine, compile_guest(HERE / f"{name}.c", tmp_path / name)
    before = len(machine.xenctl("dmesg").stdout)
    done = machine.create(
        tmp_path, f'name = "{name}"\nkernel = "{image}"\nmemory = 16\non_crash = "destroy"\n'
    )
    assert done.returncode == 0, done.stderr
    wait_until(lambda: name not in machine.domains(), 40, "the guest's end")
    log = machine.xenctl("dmesg").stdout[before:]
    assert "SUCCESS" in log, log
