"""Core dumps in Xen's format, read by pyelftools: of a Python, a PV and a PVH guest, on demand and after a crash; what cannot be
written leaves what was there.

Control: a page that the guest has not written is not found (`BEFORE`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from elftools.elf.elffile import ELFFile

from hypervisor.public.arch_x86.xen import vcpu_guest_context
from hypervisor.public.types import PAGE_SIZE
from tests.domains.dom0.toolstack.elf_files import BASE, PVH_LINUX, elf
from tests.domains.xenctl.commands import make, succeeds, xenctl
from tests.machines import Machine, wait_until

MARK = b"what the guest has written, and nobody else has: "
ENTRY = 0x100_0000
"""Of the PVH kernel."""
BEFORE = b"what it never wrote"
WRITING = f"""
class Probe(Guest):
    def main(self) -> None:
        page = self.kernel.memory.alloc_page()
        self.kernel.cpu.store(page.va, {MARK!r} + b"%d %d" % (page.pfn, page.mfn))
        print("written")
        END
"""


class Core(NamedTuple):
    """A core dump: its sections, and the numbers in its header note."""

    sections: dict[str, bytes]
    magic: int
    vcpus: int
    pages: int

    def contexts(self) -> list[Any]:
        """The vCPUs' registers."""
        raw = self.sections[".xen_prstatus"]
        return [vcpu_guest_context.unpack(raw, at * vcpu_guest_context.sizeof) for at in range(self.vcpus)]


def core_at(path: Path) -> Core:
    """Read by what knows nothing of how it was written."""
    with path.open("rb") as file:
        elf_file = ELFFile(file)
        assert (elf_file["e_type"], elf_file["e_machine"], elf_file.num_segments()) == (
            "ET_CORE",
            "EM_X86_64",
            0,
        )
        sections = {section.name: section.data() for section in elf_file.iter_sections() if section.name}
    notes = dict(notes_in(sections[".note.Xen"]))
    assert list(notes) == [0x2000000, 0x2000001, 0x2000002, 0x2000003]
    magic, vcpus, pages, size = struct.unpack("<4Q", notes[0x2000001])
    assert size == PAGE_SIZE
    assert len(sections[".xen_pages"]) == pages * PAGE_SIZE
    assert struct.unpack_from("<QQ", notes[0x2000002]) == (4, 17)
    assert len(notes[0x2000002]) == 1280
    assert len(sections[".xen_prstatus"]) == vcpus * vcpu_guest_context.sizeof
    return Core(sections, magic, vcpus, pages)


def notes_in(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each note."""
    at = 0
    while at < len(raw):
        name, size, kind = struct.unpack_from("<III", raw, at)
        assert (name, raw[at + 12 : at + 16]) == (4, b"Xen\0")
        yield kind, raw[at + 16 : at + 16 + size]
        at += 16 + size


def found(core: Core, mark: bytes) -> tuple[int, bytes]:
    """Which page of the dump begins with `mark`, and what it has behind it."""
    pages = core.sections[".xen_pages"]
    at = [first for first in range(0, len(pages), PAGE_SIZE) if pages.startswith(mark, first)]
    assert len(at) == 1
    return at[0] // PAGE_SIZE, pages[at[0] + len(mark) : at[0] + PAGE_SIZE].rstrip(b"\0")


def test_a_dump_has_each_page_under_its_numbers_and_the_domain_goes_on(
    shared_machine: Machine, tmp_path: Path
) -> None:
    shared_machine.guest(tmp_path, WRITING.replace("END", "self.kernel.wait(lambda: False)"))
    wait_until(lambda: "b" in shared_machine.domain("guest")["state"])
    succeeds(shared_machine, "dump-core", "guest", tmp_path / "core")
    core = core_at(tmp_path / "core")
    assert (core.magic, core.vcpus, core.pages) == (0xF00FEBED, 1, 8 << 8)
    index, numbers = found(core, MARK)
    pairs = list(struct.iter_unpack("<QQ", core.sections[".xen_p2m"]))
    assert pairs[index] == tuple(map(int, numbers.split()))
    assert [pfn for pfn, _ in pairs] == list(range(core.pages))
    assert BEFORE not in core.sections[".xen_pages"]
    assert len(core.sections[".xen_shared_info"]) == PAGE_SIZE
    assert "p" not in shared_machine.domain("guest")["state"]
    shared_machine.destroy("guest")


def test_a_dump_has_the_registers_of_machine_code(shared_machine: Machine, tmp_path: Path) -> None:
    make(shared_machine, tmp_path, name="pv")
    succeeds(shared_machine, "dump-core", "pv", tmp_path / "pv.core")
    (context,) = core_at(tmp_path / "pv.core").contexts()
    assert context.user_regs.rip == BASE + 0x20_0180
    assert "p" in shared_machine.domain("pv")["state"]  # its own pause is left
    shared_machine.destroy("pv")
    kernel = tmp_path / "pvh-kernel"
    kernel.write_bytes(elf(segments=[(ENTRY, ENTRY, b"code", PAGE_SIZE)], note_segment=PVH_LINUX))
    text = f'name = "pvh"\nkernel = "{kernel}"\nmemory = 32\ntype = "pvh"'
    made = shared_machine.create(tmp_path, text, "--paused")
    assert made.returncode == 0, made.stderr
    succeeds(shared_machine, "dump-core", "pvh", tmp_path / "pvh.core")
    core = core_at(tmp_path / "pvh.core")
    assert core.magic == 0xF00FEBEE
    (context,) = core.contexts()
    assert (context.user_regs.rip, context.ctrlreg[0] & 1) == (ENTRY, 1)
    numbers = [pfn for (pfn,) in struct.iter_unpack("<Q", core.sections[".xen_pfn"])]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == core.pages >= 32 << 8
    shared_machine.destroy("pvh")


def test_what_cannot_be_written_leaves_what_was_there(shared_machine: Machine, tmp_path: Path) -> None:
    make(shared_machine, tmp_path, name="pv")
    for path, why in (
        ("/dev/null", "no regular file"),
        (tmp_path / "no" / "core", "No such file"),
        (tmp_path, "no regular file"),
        ("/proc/core", "name another file"),
    ):
        done = xenctl(shared_machine, "dump-core", "pv", path)
        assert (done.code, len(done.err.splitlines())) == (1, 1), done
        assert why in done.err
    os.mkfifo(tmp_path / "mine.part")  # a stranger's, at which an opener would wait for ever
    succeeds(shared_machine, "dump-core", "pv", tmp_path / "mine")
    with ThreadPoolExecutor() as pool:  # into one file: each is whole, and the last one stays
        words = ("dump-core", "pv", tmp_path / "mine")
        ways = [pool.submit(shared_machine.xenctl, *words) for _ in range(3)]
        assert [way.result(timeout=60).returncode for way in ways] == [0, 0, 0]
    core_at(tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.glob("mine*")) == ["mine", "mine.part"]
    assert xenctl(shared_machine, "dump-core", "0", tmp_path / "core").code == 1
    assert xenctl(shared_machine, "dump-core", "nobody", tmp_path / "core").code == 3
    assert not list(tmp_path.glob("core*"))
    shared_machine.destroy("pv")


@contextmanager
def machine_with_state(folder: Path) -> Iterator[Machine]:
    """A machine whose core dumps lie in `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        machine = Machine()
    try:
        yield machine
    finally:
        machine.stop()


def test_a_crashed_domain_is_dumped_and_then_destroyed_made_again_or_kept(tmp_path: Path) -> None:
    crashing = WRITING.replace("END", "self.kernel.shutdown(3)")
    with machine_with_state(tmp_path / "state") as machine:
        dumps = tmp_path / "state" / "xenoscope" / "dump" / machine.name
        machine.guest(tmp_path, crashing, name="once", extra='on_crash = "coredump-destroy"')
        wait_until(lambda: machine.is_gone("once"))
        found(core_at(dumps / "once"), MARK)
        machine.guest(tmp_path, crashing, name="again", extra='on_crash = "coredump-restart"')
        first = machine.domains().get("again", {"domid": 0})["domid"]
        wait_until(lambda: machine.domains().get("again", {"domid": 0})["domid"] > first)
        found(core_at(dumps / "again"), MARK)
        wait_until(lambda: machine.xenctl("destroy", "again").returncode == 0)
        assert "(once) dumped to" in machine.xenctl("dmesg").stdout
        machine.guest(tmp_path, crashing, name="soft", extra='on_crash = "soft-reset"')
        wait_until(lambda: machine.domain("soft")["shutdown"] == "crash")
        assert "no soft reset; 'xenctl destroy'" in machine.xenctl("dmesg").stdout
        assert sorted(path.name for path in dumps.iterdir()) == ["again", "once"]
