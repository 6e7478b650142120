"""What a description of a PVH domain may say, and which kernels can be one."""

from pathlib import Path

import pytest

from domains.control.description import DomainConfig, GuestType
from domains.control.records import Malformed, decode, encode
from domains.dom0.toolstack.builder.elf import load_pvh_elf
from domains.dom0.toolstack.builder.prepared import decode as decode_prepared
from domains.dom0.toolstack.builder.prepared import encode as encode_prepared
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.xlcfg.load import read_config
from domains.dom0.toolstack.xlcfg.syntax import ConfigError
from hypervisor.builder.hvm_layout import HvmPlan, hvm_plan
from hypervisor.builder.pv_image import LayoutError
from hypervisor.public.elfnote import ElfNote
from tests.domains.dom0.toolstack.elf_files import LINUX_NOTES, PVH_LINUX, elf, elf32, note

PHYSICAL = [(0xFFFF_FFFF_8100_0000, 0x100_0000, b"code" * 100, 0x3000)]
PVH_KERNEL = elf(segments=PHYSICAL, note_segment=PVH_LINUX)
HEAD = 'name = "web"\nkernel = "vmlinuz"\n'


def read(text: str, warnings: list[str] | None = None) -> DomainConfig:
    return read_config(HEAD + text, "web.cfg", Path("/"), (), ([] if warnings is None else warnings).append)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("", GuestType.PV), ('type = "pv"', GuestType.PV), ('type = "pvh"\nhap = 1', GuestType.PVH)],
)
def test_the_type_is_read_and_travels(text: str, kind: GuestType) -> None:
    config = read(text)
    assert config.type is kind
    assert decode(DomainConfig, encode(config)) == config


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("hap = 1", 0),
        ("hap = 1\nshadow_memory = 1", 0),
        ("hap = 0", 2),
        ("hap = 0\nmemory = 256", 3),
        ("hap = 0\nmemory = 256\nmaxmem = 512", 5),
        ("hap = 0\nshadow_memory = 9", 9),
    ],
)
def test_the_memory_of_shadows_is_what_is_said_or_what_xl_takes(text: str, mib: int) -> None:
    config = read('type = "pvh"\n' + text)
    assert config.shadow_mib == mib
    assert decode(DomainConfig, encode(config)) == config


def test_a_message_with_too_little_memory_for_shadows_is_refused() -> None:
    plain = encode(read('type = "pvh"\nhap = 0\nmemory = 512'))
    with pytest.raises(Malformed, match="shadow_memory 2 is too little"):
        decode(DomainConfig, plain | {"shadow_memory": 2})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('type = "pvh"\nnestedhvm = 1', "nestedhvm: virtualization within a domain is not supported yet"),
        (
            'type = "pvh"\nhap = 0\nmemory = 512\nshadow_memory = 2',
            "shadow_memory 2 is too little for 512 MiB of memory with hap 0; it takes 3",
        ),
        ('type = "pvh"\nkernel = "python:a:B"', "a Python guest is of type 'pv', not 'pvh'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read(text)


def read_hvm(text: str) -> DomainConfig:
    return read_config('name = "test"\n' + text, "test.cfg", Path("/"))


def test_an_hvm_domain_whose_firmware_is_a_pvh_kernel_is_a_pvh_domain() -> None:
    """As the descriptions of Xen's test framework have it."""
    config = read_hvm(
        'type="hvm"\nbuilder="hvm" # Legacy\nfirmware_override="/tests/hvm64"\nhap=1\nvnc=0\nvga="none"\nviridian=1'
    )
    assert (config.type, config.kernel) == (GuestType.PVH, "/tests/hvm64")
    assert read_hvm('builder="hvm"\nfirmware_override="/tests/hvm64"') == config


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            'type="hvm"',
            "test.cfg:2:6: type 'hvm' needs a device model, and there is none; firmware_override may name",
        ),
        (
            'type="hvm"\nkernel="vmlinuz"\nfirmware_override="f"',
            "test.cfg:3:8: kernel of an HVM domain is started by a",
        ),
        (
            'type="hvm"\nfirmware_override="f"\nvnc=1',
            "test.cfg:4:5: vnc asks for a device model, and there is none",
        ),
        ('type="hvm"\nfirmware_override="f"\nusbdevice=["tablet"]', "usbdevice asks for a device model"),
        (
            'type="hvm"\nfirmware_override="f"\nviridian=["base"]',
            "viridian: parts of Hyper-V's interface are not supported yet",
        ),
        ('type="hvm"\nfirmware_override="f"\nnestedhvm=1', "nestedhvm: virtualization within a domain"),
    ],
)
def test_what_needs_a_device_model_is_refused_in_one_line(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        read_hvm(text)
    assert why in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_hap_says_nothing_to_a_pv_domain() -> None:
    warnings: list[str] = []
    assert read("hap = 0", warnings).type is GuestType.PV
    assert len(warnings) == 1


def test_a_message_is_checked_too() -> None:
    for wrong in ({"type": "hvm"}, {"type": "pvh", "kernel": "python:a:B"}):
        with pytest.raises(Malformed):
            decode(DomainConfig, {"name": "web", "kernel": "k", **wrong})


def test_a_pvh_kernel_is_loaded_at_its_physical_addresses() -> None:
    image = load_pvh_elf(PVH_KERNEL, "vmlinux")
    assert (image.virt_base, image.entry) == (0, 0x100_0000)
    assert [(segment.vaddr, segment.size) for segment in image.segments] == [(0x100_0000, 0x3000)]
    prepared = decode_prepared(encode_prepared(image, 0, []), memoryview(b""), 32 << 8, pvh=True)
    assert isinstance(prepared.plan, HvmPlan)
    assert prepared.plan.kernel.pfn == 0x1000


def test_a_32_bit_pvh_kernel_is_loaded_too() -> None:
    """Such as Debian's PVH GRUB."""
    segments = [(0x10_0000, 0x10_0000, b"code" * 100, 0x3000)]
    entry = note(ElfNote.XEN_ELFNOTE_PHYS32_ENTRY, 0x10_0040)
    image = load_pvh_elf(elf(segments=segments, note_segment=entry, entry=0x10_0000, bits=32), "grub")
    assert image.entry == 0x10_0040
    assert [(s.vaddr, bytes(s.data), s.size) for s in image.segments] == [(0x10_0000, b"code" * 100, 0x3000)]


@pytest.mark.parametrize(
    ("entry", "at", "why"),
    [
        (0x20_0000, 0x10_0000, "entry point 0x200000 lies in none of its segments"),
        (0x4000_0000, 0x4000_0000, "lie outside its 32 MiB"),
        (0x10_0000, 0xFFFF_F000, "lie outside its 32 MiB"),
    ],
)
def test_what_does_not_lie_in_the_domains_memory_is_refused(entry: int, at: int, why: str) -> None:
    notes = note(ElfNote.XEN_ELFNOTE_PHYS32_ENTRY, entry)
    image = load_pvh_elf(elf(segments=[(at, at, b"code", 0x1000)], note_segment=notes, entry=0, bits=32), "k")
    with pytest.raises(LayoutError, match=why):
        hvm_plan(image, 32 * 256)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (elf(note_segment=LINUX_NOTES), "a 64-bit PV kernel, which has no entry point for PVH"),
        (elf32(LINUX_NOTES), "a 32-bit PV kernel.*, which has no entry point for PVH"),
        (elf(), "no Xen ELF notes, so it is not a PVH kernel"),
        (elf32(b"", after=b"\x02\xb0\xad\x1b"), "a multiboot kernel.*without Xen ELF notes"),
        (elf32(PVH_LINUX, e_machine=40), "a 32-bit file, not for x86"),
        (elf(note_segment=PVH_LINUX, e_machine=183), "a 64-bit file, not for x86-64"),
    ],
)
def test_a_kernel_without_the_entry_gets_one_clear_line(data: bytes, why: str) -> None:
    with pytest.raises(ToolstackError, match=why):
        load_pvh_elf(data, "vmlinux")
