"""Files of saved domains that are not what they should be make no domain; a small guest of ours is in them.

Negative control: without `record.need` for pages beyond X86_PV_P2M_FRAMES (restoring/pv_memory.py) the altered files end in
"the toolstack failed: IndexError", and the random test fails.
"""

from __future__ import annotations

import os
import random
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from domains.control.domain_operations import Restore
from domains.control.protocol import ControlError
from domains.dom0.toolstack.stream.libxc import LibxcRecord as Kind
from hypervisor.public.arch_x86.xen import vcpu_guest_context
from tests.guests.compiled import HERE, NEEDS, can_compile, compile_guest
from tests.guests.saved_file import SavedFile
from tests.machines import Machine, wait_until

pytestmark = [
    pytest.mark.needs_headers,
    pytest.mark.skipif(not can_compile(), reason=NEEDS),
]
ALTERED = 120
"""Files with some bytes altered; each takes some 50 ms."""
CUTS = 60
BUGS = ("Traceback", "hypervisor bug", "toolstack failed")
CR3 = vcpu_guest_context.offsetof("ctrlreg") + 3 * 8
RDX = vcpu_guest_context.offsetof("user_regs.rdx")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """One machine for all."""
    machine = Machine()
    try:
        yield machine
        wait_until(machine.census_is_clean, 30, "a clean census")
        log = machine.xenctl("dmesg").stdout
        assert not [bug for bug in BUGS if bug in log], log
    finally:
        machine.stop()


@pytest.fixture(scope="module")
def file(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a guest of 64 bits."""
    folder = tmp_path_factory.mktemp("saved")
    suspended(machine, folder, 64)
    done = machine.xenctl("save", "suspend", folder / "file")
    assert done.returncode == 0, done.stderr
    assert machine.is_gone("suspend")
    return folder / "file"


def suspended(machine: Machine, folder: Path, bits: int, memory: int = 4) -> None:
    """The guest has been made, and has suspended."""
    image = compile_guest(HERE / "suspend.c", folder / "suspend", bits)
    text = f'name = "suspend"\nkernel = "{image}"\nmemory = {memory}\nvcpus = 2\non_crash = "destroy"\n'
    done = machine.create(folder, text)
    assert done.returncode == 0, done.stderr
    stands_still(machine)


def stands_still(machine: Machine) -> None:
    wait_until(lambda: "s" in machine.domain("suspend")["state"], 40, "the guest's suspend")


def refused(machine: Machine, file: Path) -> str:
    """Why no domain is made of it: one line."""
    with pytest.raises(ControlError) as caught:
        machine.ask(Restore(str(file)))
    text = str(caught.value)
    assert "\n" not in text
    assert not [bug for bug in BUGS if bug in text], text
    assert list(machine.domains()) == ["Domain-0"]
    return text


def test_a_file_that_is_cut_anywhere_makes_no_domain(machine: Machine, file: Path, tmp_path: Path) -> None:
    saved, short = SavedFile.read(file), tmp_path / "short"
    data, chance = saved.write(tmp_path / "file").read_bytes(), random.Random(2)
    places = [*saved.places(), *(chance.randrange(len(data)) for _ in range(CUTS)), 0, len(data) - 1]
    for end in places:
        short.write_bytes(data[:end])
        assert refused(machine, short).endswith("ends within it")


def test_a_byte_that_was_altered_is_found_with_its_record(
    machine: Machine, file: Path, tmp_path: Path
) -> None:
    data, chance = bytearray(file.read_bytes()), random.Random(4)
    saved = SavedFile.read(file)
    for number, at in enumerate(saved.places(), 1):
        kind, body = saved.records[number - 1]
        if not body:
            continue
        byte = at + 8 + chance.randrange(len(body))
        data[byte] ^= 1 << chance.randrange(8)
        (tmp_path / "altered").write_bytes(data)
        data[byte] = file.read_bytes()[byte]
        text = refused(machine, tmp_path / "altered")
        assert (
            f"libxc record {number} ({Kind(kind).name}, at byte {at}): its bytes are not as they were" in text
        )
    data[100] ^= 1
    (tmp_path / "altered").write_bytes(data)
    assert refused(machine, tmp_path / "altered").startswith("xl's header")


def test_a_file_with_altered_bytes_makes_a_domain_or_one_line(
    machine: Machine, file: Path, tmp_path: Path
) -> None:
    """One without checksums, as Xen's are. Bytes of ordinary pages are nobody's to check then; all others are altered here more
    often than they weigh.
    """
    data, chance = SavedFile.read(file).write(tmp_path / "file").read_bytes(), random.Random(3)
    places = list(SavedFile.read(file).places())
    for _ in range(ALTERED):
        altered = bytearray(data)
        for _ in range(chance.choice((1, 1, 4, 32))):
            at = chance.choice((chance.choice(places), len(data) - 9000)) + chance.choice(
                (chance.randrange(64), chance.randrange(9000))
            )
            altered[min(at, len(data) - 1)] = chance.choice((0, 1, 0xFF, chance.randrange(256)))
        (tmp_path / "altered").write_bytes(altered)
        try:
            made = machine.ask(Restore(str(tmp_path / "altered"), paused=True))
        except ControlError as error:
            text = str(error)
            assert not [bug for bug in BUGS if bug in text], text
        else:
            machine.destroy(made["name"])
    wait_until(machine.census_is_clean, 30, "a clean census")


@pytest.mark.parametrize(
    "kind",
    [
        *(Kind.X86_PV_INFO, Kind.STATIC_DATA_END, Kind.X86_PV_P2M_FRAMES, Kind.PAGE_DATA),
        *(Kind.X86_TSC_INFO, Kind.SHARED_INFO, Kind.X86_PV_VCPU_BASIC),
    ],
    ids=lambda kind: kind.name,
)
def test_no_record_may_be_missing(machine: Machine, file: Path, tmp_path: Path, kind: Kind) -> None:
    text = refused(machine, SavedFile.read(file).without(kind).write(tmp_path / "file"))
    assert re.search(rf"{kind.name}|no ordinary page|no page table", text), text


@pytest.mark.parametrize(
    "kind",
    [
        *(Kind.X86_PV_INFO, Kind.X86_CPUID_POLICY, Kind.STATIC_DATA_END, Kind.X86_TSC_INFO),
        *(Kind.SHARED_INFO, Kind.X86_PV_VCPU_BASIC, Kind.X86_PV_VCPU_EXTENDED),
    ],
    ids=lambda kind: kind.name,
)
def test_no_record_may_come_twice(machine: Machine, file: Path, tmp_path: Path, kind: Kind) -> None:
    saved = SavedFile.read(file)
    text = refused(machine, saved.twice(kind).write(tmp_path / "file"))
    assert f"libxc record {saved.number(kind) + 1} ({kind.name}, at byte" in text


@pytest.mark.parametrize(
    ("kind", "before"),
    [
        (Kind.X86_PV_INFO, Kind.X86_TSC_INFO),
        (Kind.PAGE_DATA, Kind.X86_PV_P2M_FRAMES),
        (Kind.X86_TSC_INFO, Kind.STATIC_DATA_END),
        (Kind.X86_PV_VCPU_BASIC, Kind.X86_PV_INFO),
    ],
    ids=lambda kind: kind.name,
)
def test_records_may_not_come_too_early_or_late(
    machine: Machine, file: Path, tmp_path: Path, kind: Kind, before: Kind
) -> None:
    text = refused(machine, SavedFile.read(file).moved(kind, before).write(tmp_path / "file"))
    assert "libxc record" in text


def set_word(at: int, value: int) -> Callable[[bytearray], None]:
    def change(body: bytearray) -> None:
        struct.pack_into("<Q", body, at, value)

    return change


def with_pages(change: Callable[[np.ndarray, np.ndarray], None]) -> Callable[[bytearray], None]:
    """Change the heads and pages of a PAGE_DATA."""

    def whole(body: bytearray) -> None:
        (count,) = struct.unpack_from("<I", body)
        heads = np.frombuffer(body, "<u8", count, 8)
        change(heads, np.frombuffer(body, "<u8", offset=8 + 8 * count).reshape(-1, 512))

    return whole


def first_page_is_elsewhere(heads: np.ndarray, _pages: np.ndarray) -> None:
    heads[0] = 1 << 40


def width_of_32(_body: bytearray) -> bytes:
    return struct.pack("<BBHI", 4, 3, 0, 0)


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        (Kind.X86_CPUID_POLICY, set_word(8, 0x1234), "CPUID leaf 0x0 is not as on this machine"),
        (Kind.X86_MSR_POLICY, set_word(8, 0x1234), "MSR 0xce is not as on this machine"),
        (Kind.X86_PV_INFO, width_of_32, "CPUID leaf 0x1 is not as on this machine"),
        (Kind.X86_PV_P2M_FRAMES, set_word(8, 1 << 40), "page 0x10000000000 of the table is no ordinary page"),
        (
            Kind.PAGE_DATA,
            with_pages(first_page_is_elsewhere),
            "page 0x10000000000: X86_PV_P2M_FRAMES has pages",
        ),
        (Kind.X86_TSC_INFO, set_word(0, 2_400_000 << 32), "its clock cannot go on here"),
        (
            Kind.X86_PV_VCPU_BASIC,
            set_word(8 + CR3, 5 << 12),
            "CR3 names page 0x5, which is no page table of level 4",
        ),
        (Kind.X86_PV_VCPU_BASIC, set_word(8 + CR3, 1 << 50), "which is no page table"),
        (Kind.X86_PV_VCPU_BASIC, set_word(8 + RDX, 1 << 50), "start_info is in page 0x4000000000000"),
        (Kind.X86_PV_VCPU_BASIC, set_word(8 + RDX + 8 * 4, 1 << 60), "Xen refuses these registers"),
        (Kind.X86_PV_VCPU_EXTENDED, set_word(16, 1 << 60), "Xen refuses it"),
    ],
)
def test_records_that_no_such_domain_can_have_are_named(
    machine: Machine,
    file: Path,
    tmp_path: Path,
    kind: Kind,
    change: Callable[[bytearray], bytes | bytearray | None],
    says: str,
) -> None:
    text = refused(machine, SavedFile.read(file).altered(kind, change).write(tmp_path / "file"))
    assert says in text


def test_page_tables_that_xen_refuses_make_no_domain(machine: Machine, file: Path, tmp_path: Path) -> None:
    """A table that maps itself writable; one that maps a page which is not there; one that is none."""
    saved = SavedFile.read(file)
    at = next(i for i, (kind, body) in enumerate(saved.records) if kind == Kind.PAGE_DATA and tables(body))
    pfn = tables(saved.records[at][1])[0]

    def maps(frame: int) -> SavedFile:
        def change(heads: np.ndarray, pages: np.ndarray) -> None:
            row = int(np.argmax(heads >> np.uint64(60) & np.uint64(7) == 1))
            pages[row, 7] = frame << 12 | 7

        body = bytearray(saved.records[at][1])
        with_pages(change)(body)
        records = list(saved.records)
        records[at] = Kind.PAGE_DATA, bytes(body)
        return SavedFile(saved.before, records, saved.after)

    assert "Xen refuses" in refused(machine, maps(pfn).write(tmp_path / "own"))
    assert "entry 7: it maps a page that is not there" in refused(
        machine, maps(0xFFFFF).write(tmp_path / "far")
    )


def tables(body: bytes) -> list[int]:
    """The L1 tables among the pages of a PAGE_DATA."""
    (count,) = struct.unpack_from("<I", body)
    heads = np.frombuffer(body, "<u8", count, 8)
    found: list[int] = (heads[heads >> np.uint64(60) & np.uint64(7) == 1] & np.uint64((1 << 52) - 1)).tolist()
    return found


def test_files_that_are_no_files_are_refused(machine: Machine, file: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "it is no regular file" in refused(machine, tmp_path / "pipe")
    assert "No such file" in refused(machine, tmp_path / "none")
