"""Xen's entry code finds a guest's memory as the CPU does: through the guest's tables, of each form, and the P2M below them."""

import pytest

from domains.cpu.x86.emulator import svm
from domains.cpu.x86.emulator.cpu_state import CR, EFER, HF_CPL, OLD_EXCEPTION
from domains.cpu.x86.emulator.unicorn_library import UnsupportedLibrary
from domains.cpu.x86.hvm.listing import SOURCE
from domains.cpu.x86.hvm.stubs import CODE as STUBS
from domains.cpu.x86.hvm.stubs import CODE_AT, COUNTERS, ROUTINES, WORDS
from domains.cpu.x86.paging import GuestFault, NotMapped
from domains.cpu.x86.registers import CR0_PG, CR0_WP, CR4_PAE, EFER_NX
from hypervisor.machine.paging import (
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_PSE,
    PAGE_RW,
    PAGE_USER,
    PFEC_PRESENT,
    PFEC_RESERVED,
)
from tests.domains.cpu.x86.assembler import assemble_flat
from tests.domains.cpu.x86.hvm_bench import DATA, HOLE, READ_ONLY, TABLES, HvmBench

PW = PAGE_PRESENT | PAGE_RW


def put(hvm: HvmBench, gpa: int, value: int, size: int = 8) -> None:
    hvm.write(gpa, value.to_bytes(size, "little"))


def machine(hvm: HvmBench, gpa: int) -> int:
    return hvm.mfn(gpa >> 12) << 12 | gpa & 0xFFF


def test_without_paging_an_address_is_guest_physical(hvm: HvmBench) -> None:
    assert hvm.v.paging.translate(DATA + 5) == machine(hvm, DATA + 5)
    with pytest.raises(NotMapped):
        hvm.v.paging.translate(HOLE)
    hvm.v.paging.translate(READ_ONLY)
    with pytest.raises(NotMapped):
        hvm.v.paging.translate(READ_ONLY, write=True)


def test_two_levels_of_32_bit_entries(hvm: HvmBench) -> None:
    put(hvm, TABLES + 4 * 0x301, TABLES + 0x1000 | PW, 4)
    put(hvm, TABLES + 0x1000 + 4 * 7, DATA | PW, 4)
    put(hvm, TABLES + 4 * 0x302, PAGE_PSE | PW, 4)
    hvm.q[CR + 3], hvm.q[CR] = TABLES, hvm.q[CR] | CR0_PG
    assert hvm.v.paging.translate(0xC0407123) == machine(hvm, DATA + 0x123)
    assert hvm.v.paging.translate(0xC0840123) == machine(hvm, DATA + 0x123), "a page of 4 MiB"
    with pytest.raises(GuestFault):
        hvm.v.paging.translate(0xC0408000)


def test_three_levels_with_rights_below_the_top(hvm: HvmBench) -> None:
    put(hvm, TABLES + 0x20 + 8 * 3, TABLES + 0x1000 | PAGE_PRESENT)
    put(hvm, TABLES + 0x1000 + 8 * 5, TABLES + 0x2000 | PW)
    put(hvm, TABLES + 0x2000 + 8 * 7, DATA | PW | PAGE_NX)
    hvm.q[CR + 3], hvm.q[CR], hvm.q[CR + 4] = TABLES + 0x20, hvm.q[CR] | CR0_PG, CR4_PAE
    va = 3 << 30 | 5 << 21 | 7 << 12 | 0x123
    with pytest.raises(GuestFault) as fault:
        hvm.v.paging.translate(va)
    assert fault.value.error_code == PFEC_PRESENT | PFEC_RESERVED  # without EFER.NX its bit is reserved
    hvm.q[EFER] |= EFER_NX
    assert hvm.v.paging.translate(va, write=True) == machine(hvm, DATA + 0x123)
    with pytest.raises(GuestFault):
        hvm.v.paging.translate(va, fetch=True)


def test_the_top_entries_of_three_levels_are_no_pages(hvm: HvmBench) -> None:
    """Bit 7 of theirs is reserved; a lower entry with it is a page."""
    put(hvm, TABLES, TABLES + 0x1000 | PAGE_PSE | PAGE_PRESENT)
    put(hvm, TABLES + 0x1000, PAGE_PSE | PW)
    hvm.q[CR + 3], hvm.q[CR], hvm.q[CR + 4] = TABLES, hvm.q[CR] | CR0_PG, CR4_PAE
    assert hvm.v.paging.translate(DATA + 5) == machine(hvm, DATA + 5)
    assert [level for level, _ in hvm.v.paging.levels(DATA)] == [3, 2]


def test_four_levels_and_the_rights_that_the_guest_has(hvm: HvmBench) -> None:
    hvm.run("start: long_mode; done")
    paging, slot = hvm.v.paging, TABLES + 0x3000 + 8 * 0x51
    put(hvm, slot, DATA | PAGE_PRESENT)
    assert paging.translate(0x51008) == machine(hvm, DATA + 8)
    with pytest.raises(GuestFault) as fault:
        paging.translate(0x51008, write=True)
    assert fault.value.error_code == 3
    hvm.q[CR] &= ~CR0_WP
    assert paging.translate(0x51008, write=True) == machine(hvm, DATA + 8)
    hvm.v.cpu.set_hflags(0, HF_CPL)
    with pytest.raises(GuestFault):
        paging.translate(0x51008)
    put(hvm, slot, DATA | PAGE_PRESENT | PAGE_USER)
    assert paging.translate(0x51008) == machine(hvm, DATA + 8)
    with pytest.raises(GuestFault):
        paging.translate(1 << 50)


def test_a_table_of_the_guests_that_lies_nowhere_maps_nothing(hvm: HvmBench) -> None:
    hvm.run("start: long_mode; done")
    put(hvm, TABLES + 0x1000 + 8, HOLE | 7)
    with pytest.raises(GuestFault):
        hvm.v.paging.translate(1 << 30)
    assert hvm.v.paging.levels(1 << 30)[-1] == (2, 0)


def test_copies_cross_pages(hvm: HvmBench) -> None:
    hvm.run("start: long_mode; done")
    hvm.v.paging.write(DATA + 0xFFC, b"abcdefgh")
    assert hvm.v.paging.read(DATA + 0xFFC, 8) == b"abcdefgh"
    assert hvm.memory.read(machine(hvm, DATA + 0x1000), 4) == b"efgh"


def test_the_stubs_are_their_listing() -> None:
    code, symbols = assemble_flat(SOURCE)
    assert code[symbols["new_interrupt"] :] == STUBS
    assert symbols["new_interrupt"] == CODE_AT
    for name, at in (COUNTERS | ROUTINES | {word: 8 * n for n, word in enumerate(WORDS)}).items():
        assert symbols[name] == at, name


def test_a_field_that_lies_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svm, "NESTED_CR3", (OLD_EXCEPTION * 4 + 8) // 8 + 9)
    with pytest.raises(UnsupportedLibrary, match="nested paging"):
        HvmBench()
