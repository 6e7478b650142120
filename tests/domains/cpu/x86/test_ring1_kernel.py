"""A kernel in C (kernel32.c), with tables of two and of three levels, ends in ring 1 as in ring 0: the same memory and registers.

It has two processes, demand paging, copy on write, system calls, a timer, and looks at what its CPU tells it. Negative control:
with one sensitive instruction fewer translated it ends elsewhere (the last test).
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from domains.cpu.x86.registers import RBX
from tests.domains.cpu.x86.hvm_bench import CODE, STACK_TOP
from tests.domains.cpu.x86.ring0_bench import KINDS, Ring0Bench, memory_of, registers
from tests.domains.cpu.x86.ring1_bench import Ring1Bench
from tests.guests.compiled import FLAGS, gcc

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
SOURCE = Path(__file__).with_name("kernel32.c")
ENTRY = slice(24, 28)
"""Of an ELF header: e_entry."""


@pytest.fixture(scope="module", params=["two levels", "PAE"])
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, int]:
    """Its bytes, and its entry."""
    folder = tmp_path_factory.mktemp("kernel32")
    linked, flat = folder / "kernel", folder / "kernel.bin"
    levels = ["-DPAE"] if request.param == "PAE" else []
    gcc(*FLAGS, "-m32", "-mno-mmx", *levels, f"-Wl,-Ttext={CODE:#x},-e,_start", "-o", linked, SOURCE)
    subprocess.run(["objcopy", "-O", "binary", "-R", ".note*", "-R", ".eh_frame*", linked, flat], check=True)
    return flat.read_bytes(), int.from_bytes(linked.read_bytes()[ENTRY], "little")


@pytest.mark.parametrize("traces_tables", [True, False], ids=["traced tables", "compared tables"])
def test_it_ends_as_in_ring_0(image: tuple[bytes, int], traces_tables: bool) -> None:
    ring1 = Ring1Bench(traces_tables=traces_tables)
    ring1.load_image(*image)
    ring1.go_on()
    assert ring1.q[RBX] >> 20 != 0xBAD
    exits = ring1.v.exits
    traced = exits["traced store"] + exits["trace dropped"]
    assert exits["page fault"] == exits["hidden fault"] + exits["guest's own fault"] + traced
    assert (traced > 0) is traces_tables
    for kind in KINDS:
        ring0 = Ring0Bench(kind)
        ring0.start(image[0], CODE, image[1], STACK_TOP)
        assert registers(ring1) == registers(ring0), kind
        assert memory_of(ring1) == memory_of(ring0), kind


def test_an_instruction_that_is_not_translated_shows(image: tuple[bytes, int]) -> None:
    ends = []
    for untranslated in ((), ("lar",)):
        ring1 = Ring1Bench(untranslated=untranslated)
        ring1.load_image(*image)
        ring1.go_on()
        ends.append(ring1.q[RBX])
    assert ends[0] != ends[1]
