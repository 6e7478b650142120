"""Words that two processes change at once: no change is lost (STYLE 9)."""

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator

import pytest

from hypervisor.machine.atomic import Atomics, find_atomics, libatomic, machine_code

ROUNDS = 20_000
WAYS = [way for way in (machine_code(), libatomic()) if way is not None]


@pytest.fixture
def shared() -> Iterator[ctypes.c_uint32]:
    """A page that a forked child shares."""
    page = mmap.mmap(-1, mmap.PAGESIZE)
    word = ctypes.c_uint32.from_buffer(page)
    yield word
    del word


def count_up(atomics: Atomics, address: int, step: int) -> None:
    """Add `step` to the word ROUNDS times, each time by compare-exchange until it succeeds."""
    for _ in range(ROUNDS):
        seen = ctypes.c_uint32.from_address(address).value
        while (found := atomics.compare_exchange_32(address, seen, (seen + step) & 0xFFFFFFFF)) != seen:
            seen = found


def in_child(work: Callable[..., None], *arguments: object) -> int:
    """Start a process that does the work and ends; its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            work(*arguments)
        finally:
            os._exit(0)
    return pid


def test_this_host_has_atomics() -> None:
    assert find_atomics() in WAYS or find_atomics().source == WAYS[0].source


@pytest.mark.parametrize("atomics", WAYS, ids=lambda atomics: atomics.source)
def test_compare_exchange_writes_only_what_was_expected(atomics: Atomics, shared: ctypes.c_uint32) -> None:
    address = ctypes.addressof(shared)
    assert atomics.compare_exchange_32(address, 0, 0xFFFF_FFFE) == 0
    assert atomics.compare_exchange_32(address, 0, 5) == 0xFFFF_FFFE
    assert shared.value == 0xFFFF_FFFE


@pytest.mark.parametrize("atomics", WAYS, ids=lambda atomics: atomics.source)
def test_and_and_or_change_the_low_half_only(atomics: Atomics, shared: ctypes.c_uint32) -> None:
    shared.value = 0x1234_00FF
    atomics.and_16(ctypes.addressof(shared), 0xFFF0)
    assert shared.value == 0x1234_00F0
    atomics.or_16(ctypes.addressof(shared), 0x8001)
    assert shared.value == 0x1234_80F1


@pytest.mark.parametrize("atomics", WAYS, ids=lambda atomics: atomics.source)
def test_two_processes_lose_no_count(atomics: Atomics, shared: ctypes.c_uint32) -> None:
    address = ctypes.addressof(shared)
    pid = in_child(count_up, atomics, address, 1 << 16)
    count_up(atomics, address, 1)
    os.waitpid(pid, 0)
    assert shared.value == ROUNDS << 16 | ROUNDS


def set_and_clear(atomics: Atomics, address: int, bit: int) -> None:
    for _ in range(ROUNDS):
        atomics.or_16(address, bit)
        atomics.and_16(address, ~bit & 0xFFFF)
    atomics.or_16(address, bit)


@pytest.mark.parametrize("atomics", WAYS, ids=lambda atomics: atomics.source)
def test_two_processes_change_neighbouring_bits_without_harm(
    atomics: Atomics, shared: ctypes.c_uint32
) -> None:
    address = ctypes.addressof(shared)
    pid = in_child(set_and_clear, atomics, address, 1)
    set_and_clear(atomics, address, 2)
    os.waitpid(pid, 0)
    assert shared.value == 3
