"""Kernels and ramdisks from strangers on a real machine: one clear line, an exit code, and nothing is left.

Each file goes the whole way, through xenctl and Dom0; the fixture compares frames, processes and xenstore with
what they were before.
"""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
from pathlib import Path

import pytest

from domains.dom0.toolstack.builder.elf_file import Elf64_Phdr
from hypervisor.public.elfnote import ElfNote
from tests.domains.dom0.toolstack.bzimage_files import bzimage
from tests.domains.dom0.toolstack.elf_files import BASE, LINUX_NOTES, SHT_PROGBITS, elf, elf32, note
from tests.domains.xenctl.test_run import Run
from tests.machines import Machine

KERNEL_AT = BASE + 0x20_0000
MIB, U64 = 1 << 20, (1 << 64) - 1


def with_notes(**changed: int | str) -> bytes:
    """A kernel with the notes it must have, and others by their names."""
    notes: dict[str, int | str] = {"XEN_VERSION": "xen-3.0", "VIRT_BASE": BASE, "ENTRY": KERNEL_AT}
    rows = (note(ElfNote[f"XEN_ELFNOTE_{name}"], value) for name, value in (notes | changed).items())
    return elf(note_segment=b"".join(rows))


def with_segments(*segments: tuple[int, bytes, int]) -> bytes:
    """A kernel with segments (address, bytes, size)."""
    rows = [(at, at - BASE & U64, data, size) for at, data, size in segments]
    return elf(segments=rows, note_segment=LINUX_NOTES)


def note_claiming(size: int) -> bytes:
    """A kernel whose note segment is said to have `size` bytes."""
    whole = bytearray(elf(note_segment=LINUX_NOTES))
    at = 64 + Elf64_Phdr.sizeof  # the second program header
    header = Elf64_Phdr.unpack(whole, at)
    header.p_filesz = size
    whole[at : at + Elf64_Phdr.sizeof] = header.pack()
    return bytes(whole)


GOOD = elf(note_segment=LINUX_NOTES)
CODE = b"code" * 100

BAD_KERNELS = {
    "empty": (b"", "0 bytes"),
    "script": (b"#!/bin/sh\necho hello\n", "neither an ELF file nor a bzImage"),
    "magic alone": (b"\x7fELF", "header"),
    "cut off in the header": (GOOD[:40], "header"),
    "cut off in the segments": (GOOD[:200], "beyond the end"),
    "32-bit": (elf32(LINUX_NOTES), "32-bit"),
    "32-bit, the rest 64-bit": (
        elf(note_segment=LINUX_NOTES, e_ident=b"\x7fELF\1\1\1".ljust(16, b"\0")),
        "beyond the end",
    ),
    "big-endian": (elf(note_segment=LINUX_NOTES, e_ident=b"\x7fELF\2\2\1".ljust(16, b"\0")), "x86-64"),
    "for another processor": (elf(note_segment=LINUX_NOTES, e_machine=183), "x86-64"),
    "an object file": (elf(note_segment=LINUX_NOTES, e_type=1), "not an executable"),
    "an ordinary program": (elf(), "no Xen ELF notes"),
    "another Xen": (with_notes(XEN_VERSION="xen-2.0"), "xen-2.0"),
    "another Xen, in many lines and colours": (with_notes(XEN_VERSION="xen\n\r\x1b[2J"), "xen\\n"),
    "no segments": (elf(segments=[], note_segment=LINUX_NOTES), "entry point"),
    "program headers past the end": (elf(note_segment=LINUX_NOTES, e_phoff=1 << 62), "beyond the end"),
    "notes past the end": (note_claiming(1 << 40), "notes beyond the end"),
    "notes that claim the whole address space": (note_claiming((1 << 64) - 1), "notes beyond the end"),
    "a note longer than its segment": (
        elf(note_segment=struct.pack("<III", 4, 0xFFFF_FFFF, 1) + b"Xen\0"),
        "no Xen ELF notes",
    ),
    "very many notes": (elf(note_segment=bytes(12 * 100_000)), "too many notes"),
    "a number in text that is none": (
        elf(sections={"__xen_guest": (SHT_PROGBITS, b"XEN_VER=xen-3.0,VIRT_BASE=zero\0")}),
        "'VIRT_BASE=zero'",
    ),
    "overlapping segments": (
        with_segments((KERNEL_AT, CODE, 0x3000), (KERNEL_AT + 4, CODE, 0x3000)),
        "overlap",
    ),
    "a segment twice": (with_segments(*[(KERNEL_AT, CODE, 0x3000)] * 2), "overlap"),
    "a segment larger than the memory": (with_segments((KERNEL_AT, CODE, 64 * MIB)), "more than its 16 MiB"),
    "a segment larger than the address space": (
        with_segments((KERNEL_AT, CODE, 1 << 63)),
        "cannot be mapped",
    ),
    "a segment that wraps around": (with_segments((KERNEL_AT, CODE, (1 << 64) - 1)), "cannot be mapped"),
    "a segment smaller than its bytes": (with_segments((KERNEL_AT, CODE, 100)), ""),
    "a segment below the base": (
        with_segments((KERNEL_AT, CODE, 4096), (BASE - 4096, CODE, 4096)),
        "cannot be",
    ),
    "a segment far away": (
        with_segments((KERNEL_AT, CODE, 4096), (BASE + (1 << 30), CODE, 4096)),
        "more than",
    ),
    "a base in the hypervisor's range": (
        elf(
            segments=[(0, 0x20_0000, CODE, 4096)],
            note_segment=note(ElfNote.XEN_ELFNOTE_XEN_VERSION, "xen-3.0")
            + note(ElfNote.XEN_ELFNOTE_VIRT_BASE, 0xFFFF_8000_0000_0000),
            entry=0xFFFF_8000_0020_0000,
        ),
        "cannot be mapped",
    ),
    "a base that is not canonical": (
        elf(
            segments=[(0, 0x20_0000, CODE, 4096)],
            note_segment=note(ElfNote.XEN_ELFNOTE_XEN_VERSION, "xen-3.0")
            + note(ElfNote.XEN_ELFNOTE_VIRT_BASE, 1 << 50),
            entry=(1 << 50) + 0x20_0000,
        ),
        "cannot be mapped",
    ),
    "an entry point outside": (with_notes(ENTRY=BASE), "entry point"),
    "a P2M list across the hole": (with_notes(INIT_P2M=(1 << 47) - 4096), "P2M"),
    "a P2M list on the kernel": (with_notes(INIT_P2M=BASE - 4096), "P2M"),
    "a P2M list in the hypervisor's range": (with_notes(INIT_P2M=0xFFFF_8000_0000_0000), "P2M"),
    "a P2M list at an odd address": (with_notes(INIT_P2M=0x80_0000_0001), "P2M"),
    "a hypercall page outside": (with_notes(HYPERCALL_PAGE=BASE), "hypercall page"),
    "a hypercall page on the page tables": (with_notes(HYPERCALL_PAGE=KERNEL_AT + 0xE000), "hypercall page"),
    "a hypercall page at an odd address": (with_notes(HYPERCALL_PAGE=KERNEL_AT + 8), "hypercall page"),
    "a hypercall page below zero": (with_notes(HYPERCALL_PAGE=4096), "hypercall page"),
    "a bzImage cut off": (bzimage(gzip.compress(GOOD))[:2200], "beyond the end"),
    "a bzImage with a damaged payload": (
        bzimage(bytes(byte ^ (i > 60) for i, byte in enumerate(gzip.compress(GOOD)))),
        "gzip payload is damaged",
    ),
    "a bzImage packed by nobody": (bzimage(b"\xde\xad\xbe\xef" * 100), "unknown way"),
    "a bzImage of no kernel": (
        bzimage(gzip.compress(b"hello" * 100)),
        "a bzImage of something that is no ELF file",
    ),
    "a bzImage of an ordinary program": (bzimage(gzip.compress(elf())), "no Xen ELF notes"),
}


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """What a command that failed says: one line."""
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    return line


def description(kernel: Path, extra: str = "") -> str:
    return f'name = "bad"\nkernel = "{kernel}"\nmemory = 16\n{extra}\n'


@pytest.mark.parametrize("name", BAD_KERNELS)
def test_a_bad_kernel_is_refused_in_one_line(name: str, shared_machine: Machine, tmp_path: Path) -> None:
    data, why = BAD_KERNELS[name]
    kernel = tmp_path / "kernel"
    kernel.write_bytes(data)
    line = refusal(shared_machine.create(tmp_path, description(kernel)))
    assert why in line
    assert "toolstack failed" not in line


PVH_ENTRY = note(ElfNote.XEN_ELFNOTE_PHYS32_ENTRY, 0x10_0000)
BAD_PVH_KERNELS = {
    "for PV": (elf32(LINUX_NOTES), "which has no entry point for PVH"),
    "no notes": (elf32(b""), "no Xen ELF notes, so it is not a PVH kernel"),
    "outside": (
        elf(segments=[(0, 1 << 30, CODE, 4096)], note_segment=PVH_ENTRY, entry=0),
        "lie outside its 16 MiB",
    ),
    "entry": (
        elf(segments=[(0, 1 << 21, CODE, 4096)], note_segment=PVH_ENTRY, entry=0),
        "lies in none of its segments",
    ),
}


@pytest.mark.parametrize("name", BAD_PVH_KERNELS)
def test_a_kernel_that_cannot_be_a_pvh_guest_is_refused_in_one_line(
    name: str, shared_machine: Machine, tmp_path: Path
) -> None:
    data, why = BAD_PVH_KERNELS[name]
    kernel = tmp_path / "kernel"
    kernel.write_bytes(data)
    assert why in refusal(shared_machine.create(tmp_path, description(kernel, 'type = "pvh"')))
    assert shared_machine.census_is_clean()


def test_a_huge_sparse_file_is_refused_without_reading_it(shared_machine: Machine, tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(GOOD)
    os.truncate(kernel, 1 << 40)
    assert "bytes" in refusal(shared_machine.create(tmp_path, description(kernel)))


def test_what_is_no_file_is_refused(shared_machine: Machine, tmp_path: Path) -> None:
    """A pipe that nobody writes to must not hold Dom0 up."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    good = tmp_path / "good"
    good.write_bytes(GOOD)
    for path, why in ((pipe, "not a regular file"), (tmp_path, "directory"), (Path("/dev/zero"), "regular")):
        assert why in refusal(shared_machine.create(tmp_path, description(path)))
        assert why in refusal(shared_machine.create(tmp_path, description(good, f'ramdisk = "{path}"')))


@pytest.mark.parametrize("unmapped", [True, False])
def test_a_ramdisk_that_does_not_fit_is_refused(
    unmapped: bool, shared_machine: Machine, tmp_path: Path
) -> None:
    kernel, ramdisk = tmp_path / "kernel", tmp_path / "ramdisk"
    kernel.write_bytes(with_notes(MOD_START_PFN=int(unmapped)))
    ramdisk.touch()
    os.truncate(ramdisk, 16 * MIB)
    line = refusal(shared_machine.create(tmp_path, description(kernel, f'ramdisk = "{ramdisk}"')))
    assert "need more than its 16 MiB" in line


@pytest.mark.parametrize("size", [0, (1 << 30) + 1])
def test_a_ramdisk_that_is_empty_or_huge_is_refused(
    size: int, shared_machine: Machine, tmp_path: Path
) -> None:
    kernel, ramdisk = tmp_path / "kernel", tmp_path / "ramdisk"
    kernel.write_bytes(GOOD)
    ramdisk.touch()
    os.truncate(ramdisk, size)
    assert f"{size} bytes" in refusal(
        shared_machine.create(tmp_path, description(kernel, f'ramdisk = "{ramdisk}"'))
    )


def test_xenctl_run_refuses_as_create_does(tmp_path: Path) -> None:
    for name in ("overlapping segments", "a bzImage with a damaged payload"):
        data, why = BAD_KERNELS[name]
        kernel = tmp_path / "kernel"
        kernel.write_bytes(data)
        done = Run(str(kernel), "--memory", "16")
        assert done.end() == 1
        assert why in done.stderr
        assert len(done.stderr.splitlines()) == 1
