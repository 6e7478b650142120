"""A small PVH guest is saved and restored, under both ways of paging and from one to the other; and files that are not what they
should be make no domain.

Negative control: without `record.need(gfn is not None …)` in restoring/hvm.py's _rings, HVM_PARAMS that name no page end in "the
toolstack failed: KeyError"; without `wrong` in hvm_memory.py's page_data, pages that are said to be page tables make a domain.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from domains.control.domain_operations import Restore
from domains.control.protocol import ControlError
from domains.dom0.toolstack.stream.libxc import LibxcRecord as Kind
from hypervisor.public.arch_x86.hvm.save import hvm_hw_cpu
from hypervisor.public.hvm.params import HVM_PARAM_CONSOLE_PFN, HVM_PARAM_STORE_PFN
from hypervisor.public.hvm.save import hvm_save_descriptor
from tests.guests.compiled import HERE, NEEDS, can_compile, compile_pvh_guest
from tests.guests.saved_file import SavedFile
from tests.guests.test_saved_files import BUGS, refused, set_word, stands_still
from tests.machines import Machine, wait_until

pytestmark = [
    pytest.mark.needs_headers,
    pytest.mark.skipif(not can_compile(), reason=NEEDS),
]
ALTERED = 60
CUTS = 20
CPU = hvm_save_descriptor.sizeof * 2 + 24
"""Where in HVM_CONTEXT the registers of vCPU 0 begin: behind the header."""
NESTED, SHADOW = 1, 0
XTAB = 0xF << 60


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
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_pvh_guest(tmp_path_factory.mktemp("pvh") / "suspend", HERE / "pvh_suspend.S")


@pytest.fixture(scope="module")
def file(machine: Machine, image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a guest under nested paging."""
    folder = tmp_path_factory.mktemp("saved")
    suspended(machine, image, folder, NESTED)
    done = machine.xenctl("save", "suspend", folder / "file")
    assert done.returncode == 0, done.stderr
    assert machine.is_gone("suspend")
    return folder / "file"


def described(image: Path, hap: int) -> str:
    return (
        f'name = "suspend"\ntype = "pvh"\nhap = {hap}\nkernel = "{image}"\nmemory = 4\non_crash = "destroy"\n'
    )


def suspended(machine: Machine, image: Path, folder: Path, hap: int) -> None:
    """The guest has been made, and has suspended."""
    done = machine.create(folder, described(image, hap))
    assert done.returncode == 0, done.stderr
    stands_still(machine)


@pytest.mark.parametrize(
    ("first", "second"),
    [(NESTED, NESTED), (SHADOW, SHADOW), (NESTED, SHADOW), (SHADOW, NESTED)],
    ids=["nested", "shadow", "nested to shadow", "shadow to nested"],
)
def test_a_guest_finds_all_as_it_left_it(
    machine: Machine, image: Path, tmp_path: Path, first: int, second: int
) -> None:
    before = len(machine.xenctl("dmesg").stdout)

    def log() -> str:
        return machine.xenctl("dmesg").stdout[before:]

    suspended(machine, image, tmp_path, first)
    saved, other = tmp_path / "saved", tmp_path / "other.cfg"
    other.write_text(described(image, second))
    done = machine.xenctl("save", "-c", "suspend", saved)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: log().count("cancelled") == 1, 40, "the cancelled suspend")
    stands_still(machine)
    done = machine.xenctl("save", "suspend", saved)
    assert done.returncode == 0, done.stderr
    assert machine.is_gone("suspend")
    done = machine.xenctl("restore", "-p", *([] if first == second else [other]), saved)
    assert done.returncode == 0, done.stderr
    assert "SUCCESS" not in log()
    assert machine.xenctl("unpause", "suspend").returncode == 0
    wait_until(lambda: machine.is_gone("suspend"), 40, "the guest's end")
    assert "SUCCESS" in log(), log()


def test_a_file_that_is_cut_anywhere_makes_no_domain(machine: Machine, file: Path, tmp_path: Path) -> None:
    saved, short = SavedFile.read(file), tmp_path / "short"
    data, chance = saved.write(tmp_path / "file").read_bytes(), random.Random(2)
    for end in [*saved.places(), *(chance.randrange(len(data)) for _ in range(CUTS))]:
        short.write_bytes(data[:end])
        assert refused(machine, short).endswith("ends within it")


def test_a_file_with_altered_bytes_makes_a_domain_or_one_line(
    machine: Machine, file: Path, tmp_path: Path
) -> None:
    """One without checksums, as Xen's are."""
    data, chance = SavedFile.read(file).write(tmp_path / "file").read_bytes(), random.Random(3)
    places = list(SavedFile.read(file).places())
    for _ in range(ALTERED):
        altered = bytearray(data)
        for _ in range(chance.choice((1, 1, 4, 32))):
            at = chance.choice((chance.choice(places), len(data) - 4000)) + chance.choice(
                (chance.randrange(64), chance.randrange(4000))
            )
            altered[min(at, len(data) - 1)] = chance.choice((0, 1, 0xFF, chance.randrange(256)))
        (tmp_path / "altered").write_bytes(altered)
        try:
            made = machine.ask(Restore(str(tmp_path / "altered")))
        except ControlError as error:
            text = str(error)
            assert not [bug for bug in BUGS if bug in text], text
        else:
            machine.xenctl("destroy", made["name"])
    wait_until(machine.census_is_clean, 30, "a clean census")


STATE = (Kind.X86_TSC_INFO, Kind.HVM_CONTEXT, Kind.HVM_PARAMS)


@pytest.mark.parametrize("kind", [Kind.STATIC_DATA_END, Kind.PAGE_DATA, *STATE], ids=lambda kind: kind.name)
def test_no_record_may_be_missing(machine: Machine, file: Path, tmp_path: Path, kind: Kind) -> None:
    text = refused(machine, SavedFile.read(file).without(kind).write(tmp_path / "file"))
    assert kind.name in text or "it names no page for the ring" in text


@pytest.mark.parametrize(
    "kind",
    [Kind.X86_CPUID_POLICY, Kind.X86_MSR_POLICY, Kind.STATIC_DATA_END, *STATE],
    ids=lambda kind: kind.name,
)
def test_no_record_may_come_twice(machine: Machine, file: Path, tmp_path: Path, kind: Kind) -> None:
    saved = SavedFile.read(file)
    text = refused(machine, saved.twice(kind).write(tmp_path / "file"))
    assert f"libxc record {saved.number(kind) + 1} ({kind.name}, at byte" in text


def without_registers(body: bytearray) -> bytes:
    return bytes(body[: CPU - 8] + body[CPU + hvm_hw_cpu.sizeof :])


def without_a_ring(param: int) -> Callable[[bytearray], bytes]:
    def change(body: bytearray) -> bytes:
        params = [p for p in struct.iter_unpack("<QQ", body[8:]) if p[0] != param]
        return struct.pack("<II", len(params), 0) + b"".join(struct.pack("<QQ", *p) for p in params)

    return change


def one_more(index: int, value: int) -> Callable[[bytearray], bytes]:
    def change(body: bytearray) -> bytes:
        (count,) = struct.unpack_from("<I", body)
        return struct.pack("<II", count + 1, 0) + bytes(body[8:]) + struct.pack("<QQ", index, value)

    return change


def register(name: str, value: int) -> Callable[[bytearray], None]:
    return set_word(CPU + hvm_hw_cpu.offsetof(name), value)


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        (Kind.X86_CPUID_POLICY, set_word(8, 0x1234), "CPUID leaf 0x0 is not as on this machine"),
        (Kind.PAGE_DATA, set_word(8, 1 << 30), "page 0x40000000: no guest has so many"),
        (Kind.PAGE_DATA, set_word(8, 1 << 60), "page 0x0: a PVH domain's page tables"),
        (Kind.X86_TSC_INFO, set_word(0, 2_400_000 << 32), "its clock cannot go on here"),
        (Kind.HVM_CONTEXT, set_word(0, 0), "Xen refuses this state of the vCPUs"),
        (Kind.HVM_CONTEXT, register("cr0", 1 << 31), "Xen refuses this state of the vCPUs"),
        (Kind.HVM_CONTEXT, register("cr4", 1 << 20), "Xen refuses this state of the vCPUs"),
        (Kind.HVM_CONTEXT, without_registers, "it has no registers of vCPU 0"),
        (Kind.HVM_PARAMS, without_a_ring(HVM_PARAM_STORE_PFN), "no page for the ring of xenstore"),
        (Kind.HVM_PARAMS, without_a_ring(HVM_PARAM_CONSOLE_PFN), "no page for the ring of the console"),
        (Kind.HVM_PARAMS, one_more(31, 9), "Xen refuses parameter 31 as 0x9"),
        (Kind.HVM_PARAMS, one_more(39, 1), "there is no HVM parameter 39"),
        (Kind.HVM_PARAMS, one_more(int(HVM_PARAM_STORE_PFN), 1), "it has a parameter twice"),
        (Kind.HVM_PARAMS, lambda body: body[:-8], "bytes, not"),
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


def test_a_page_that_is_there_no_more_is_taken_back(machine: Machine, file: Path, tmp_path: Path) -> None:
    """As a stream says it of a domain that gave memory back while it was written."""
    saved = SavedFile.read(file)
    at = saved.number(Kind.PAGE_DATA)
    gone = Kind.PAGE_DATA, struct.pack("<IIQQ", 2, 0, XTAB | 0x300, XTAB | 0x3FF)
    later = SavedFile(saved.before, [*saved.records[:at], gone, *saved.records[at:]], saved.after)
    machine.ask(Restore(str(file), paused=True))
    whole = int(machine.domain("suspend")["memory_kib"])
    assert machine.xenctl("destroy", "suspend").returncode == 0
    machine.ask(Restore(str(later.write(tmp_path / "later")), paused=True))
    assert int(machine.domain("suspend")["memory_kib"]) == whole - 8
    assert machine.xenctl("unpause", "suspend").returncode == 0
    wait_until(lambda: machine.is_gone("suspend"), 40, "the guest's end")


def test_a_domain_of_another_kind_is_not_made_of_it(machine: Machine, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.cfg"
    other.write_text('name = "suspend"\nkernel = "/bin/true"\nmemory = 4\n')
    done = machine.xenctl("restore", other, file)
    assert done.returncode != 0
    assert "a domain of type pvh, and described as one of pv" in done.stderr
    assert list(machine.domains()) == ["Domain-0"]
