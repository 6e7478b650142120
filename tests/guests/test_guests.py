"""Our own PV guests, machine code from C, on a real machine: each file beside this one is one guest and tells one property."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machines import Machine, wait_until

HERE = Path(__file__).parent
GUESTS = sorted(path.stem for path in HERE.glob("*.c"))
FLAGS = [
    *("-O1", "-ffreestanding", "-fno-stack-protector", "-fno-pic", "-no-pie", "-mno-red-zone", "-mno-sse"),
    *("-nostdlib", "-static", "-Wall", "-Werror", "-Wno-unused-function"),
    "-Wl,--build-id=none,--no-warn-rwx-segments",
    "-D__XEN_INTERFACE_VERSION__=0x00040d00",
]

needs_compiler = pytest.mark.skipif(
    shutil.which("gcc") is None or not Path("/usr/include/xen/xen.h").exists(),
    reason="needs gcc and libxen-dev",
)


def build(name: str, folder: Path) -> Path:
    """Compile one guest."""
    image = folder / name
    sources = [HERE / "start.S", HERE / f"{name}.c"]
    subprocess.run(["gcc", *FLAGS, f"-Wl,-T,{HERE / 'guest.lds'}", "-o", image, *sources], check=True)
    return image


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
    machine, image = guests_machine, build(name, tmp_path)
    before = len(machine.xenctl("dmesg").stdout)
    done = machine.create(
        tmp_path, f'name = "{name}"\nkernel = "{image}"\nmemory = 16\non_crash = "destroy"\n'
    )
    assert done.returncode == 0, done.stderr
    wait_until(lambda: name not in machine.domains(), 40, "the guest's end")
    log = machine.xenctl("dmesg").stdout[before:]
    assert "SUCCESS" in log, log
