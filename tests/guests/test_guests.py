"""Our own PV guests, machine code from C, on a real machine: each file beside this one is one guest and tells one property."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests.compiled import HERE, NEEDS, can_compile, compile_guest
from tests.machines import Machine, wait_until

DRIVEN = ("compat", "busy_posting", "doubles", "nmi", "suspend", "wanderer")
"""Guests that other tests drive."""
GUESTS = sorted(path.stem for path in HERE.glob("*.c") if path.stem not in DRIVEN)
NARROW = ("compat", "hello")
"""Guests of 32 bits."""
needs_compiler = pytest.mark.skipif(not can_compile(), reason=NEEDS)


@pytest.fixture(scope="module")
def guests_machine() -> Iterator[Machine]:
    """One machine for all guests, which run one after the other."""
    machine = Machine()
    try:
        yield machine
        wait_until(machine.census_is_clean, 30, "a clean census")
    finally:
        machine.stop()


@needs_compiler
@pytest.mark.needs_headers
@pytest.mark.parametrize(
    ("name", "bits"), [*((name, 64) for name in GUESTS), *((name, 32) for name in NARROW)]
)
def test_guest(guests_machine: Machine, tmp_path: Path, name: str, bits: int) -> None:
    """Each has two vCPUs; those that know of one run on it."""
    machine, image = guests_machine, compile_guest(HERE / f"{name}.c", tmp_path / name, bits)
    before = len(machine.xenctl("dmesg").stdout)
    done = machine.create(
        tmp_path, f'name = "{name}"\nkernel = "{image}"\nmemory = 16\nvcpus = 2\non_crash = "destroy"\n'
    )
    assert done.returncode == 0, done.stderr
    wait_until(lambda: name not in machine.domains(), 40, "the guest's end")
    log = machine.xenctl("dmesg").stdout[before:]
    assert "SUCCESS" in log, log


@needs_compiler
@pytest.mark.needs_headers
def test_all_threads_of_a_guests_process_are_confined(guests_machine: Machine, tmp_path: Path) -> None:
    """What that means: tests/domains/cpu/test_confinement.py."""
    machine, image = guests_machine, compile_guest(HERE / "hello.c", tmp_path / "hello")
    done = machine.create(
        tmp_path, f'name = "kept"\nkernel = "{image}"\nmemory = 16\non_poweroff = "preserve"\n'
    )
    assert done.returncode == 0, done.stderr
    wait_until(lambda: "s" in machine.domain("kept")["state"], 40, "the guest's end")
    tasks = list(Path(f"/proc/{machine.domain('kept')['pid']}/task").iterdir())
    assert tasks
    for task in tasks:
        assert "\nSeccomp:\t2\n" in (task / "status").read_text()
    assert machine.xenctl("destroy", "kept").returncode == 0


@needs_compiler
@pytest.mark.needs_headers
def test_an_nmi_reaches_a_guest_that_runs_and_one_that_sleeps(
    guests_machine: Machine, tmp_path: Path
) -> None:
    """What takes no NMI, or is no trigger of a PV guest's, is refused."""
    machine, image = guests_machine, compile_guest(HERE / "nmi.c", tmp_path / "nmi")
    before = len(machine.xenctl("dmesg").stdout)
    text = f'name = "nmi"\nkernel = "{image}"\nmemory = 16\non_crash = "destroy"\n'
    assert machine.create(tmp_path, text).returncode == 0
    for line in ("ready", "one"):
        wait_until(lambda line=line: f") {line}" in machine.xenctl("dmesg").stdout[before:])  # type: ignore[misc]
        if line == "one":
            wait_until(lambda: "b" in machine.domain("nmi")["state"])
        for refused in (("power",), ("reset",), ("frob",), ("nmi", "1")):
            done = machine.xenctl("trigger", "nmi", *refused)
            assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert machine.xenctl("trigger", "nmi", "nmi").returncode == 0
    wait_until(lambda: machine.is_gone("nmi"))
    log = machine.xenctl("dmesg").stdout[before:]
    assert "SUCCESS" in log, log
    idle = 'name = "idle"\nkernel = "python:domains.guests.idle:Idle"\nmemory = 8\n'
    assert machine.create(tmp_path, idle).returncode == 0
    assert "PV guests of machine code do" in machine.xenctl("trigger", "idle", "nmi").stderr
    machine.destroy("idle")
