"""Whatever a guest in ring 1 executes, the monitor goes on, or ends it in one of the ways there are.

The code is random bytes among instructions of the kinds that come to the monitor, with registers that point at the guest's GDT,
IDT, TSS and page tables, so that these are soon nonsense. Faults go to a handler that skips a byte. Afterwards the CPU is
in ring 1 or 3, without I/O privilege, and its shadows show nothing but the guest's memory.
Negative controls, tried, and found: faults of the monitor's own reads that do not become the guest's; a POPF that gives the CPU
the guest's IOPL.
"""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.cpu.x86.emulator.cpu_state import HF_CPL, HFLAGS
from domains.cpu.x86.registers import EFLAGS_IOPL
from hypervisor.machine.paging import PAGE_PRESENT, PAGE_RW, PTE_MFN_MASK
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE
from tests.domains.cpu.x86.bench import Done, GuestCrashed
from tests.domains.cpu.x86.hvm_bench import CODE, GUEST, HOLE, READ_ONLY, TripleFault, mfn_of
from tests.domains.cpu.x86.ring1_bench import LINE, SMALLEST_POOL, Ring1Bench, assembled

SLICE = 0.005
"""Seconds after which a guest that goes on is stopped."""
CODES = """
    fa fb f4 9c 9d cf cb ca0400 0e 16 17 1f 07 6a08 6a10 6a1b 6a23 68000a0000 cd80 cc ce cd20 0f0b 0fa2 0f31 0f05 0f34 0f06 0f09
    0f0117 0f011f 0f0107 0f010f 0f0037 0f00d8 0f00d0 0f00c0 0f01e0 0f01f0 0f013f 0f02c1 0f03c1 0f00e1 0f00e9 0fb227 0f30 0f32
    0f22d8 0f20d8 0f22c0 0f20c0 0f22e0 0f20e0 0f22d0 0f20d0 0f23f8 0f21f8 8ed0 8ed8 8ee8 8cc8 8cd0 ec ee e480 e680 6c 6f f36c
    68023200009d 68023200006a1b6800101000cf
    8907 890f 893e 8927 a5 ab f3a5 f3ab 0907 8703 8b07 8917 c70700000000 c7070f000000 31c0 40 48 50 51 53 57
    83c404 83ec08 89c4 89e0 97 91
    9a000010000800 ea000010000800 9a000010001b00 ff2f ff1f 669c 669d 66cf e800000000 c3 0f00f0 8ec0 f00fc70f d9d0 0f6f07
"""
INSTRUCTIONS = [bytes.fromhex(code) for code in CODES.split()]
PLACES = [
    0,
    4,
    0x10000,
    0x11000,
    0x11140,
    0x20000,
    0x20068,
    0x40000,
    0x48000,
    0x48004,
    0x8FFFE,
    0x90000,
    CODE,
    CODE + 0xA8,
    LINE,
]
VALUES = [
    *PLACES,
    *(
        HOLE,
        READ_ONLY,
        0x200000,
        0xFFFFFFFC,
        0x80000000,
        0x80010011,
        0x11,
        0x20,
        8,
        0x10,
        0x1B,
        0x23,
        0x28,
        0x67,
        7,
        0xC0000080,
    ),
]

PREAMBLE = (
    "start: protected; .irp v, 0,1,2,3,4,5,6,7,9,16,17,18,19,32,128; gate \\v, plain, 3; .endr\n"
    ".irp v, 8,10,11,12,13,14; gate \\v, coded; .endr\n"
    "out %al, $0x80; jmp hostile; coded: add $4, %esp; plain: incl (%esp); iret\n"
    ".balign 4096; hostile: .fill 4096, 1, 0xf4"
)


@pytest.fixture(scope="module", params=[True, False], ids=["traced tables", "compared tables"])
def ring1(request: pytest.FixtureRequest) -> Ring1Bench:
    return Ring1Bench(SMALLEST_POOL, traces_tables=request.param)


def code() -> st.SearchStrategy[bytes]:
    pieces = st.one_of(*[st.sampled_from(INSTRUCTIONS)] * 4, st.binary(min_size=1, max_size=4))
    values = st.lists(st.sampled_from(VALUES), min_size=8, max_size=8)
    loads = values.map(
        lambda eight: b"".join(
            bytes([0xB8 + n]) + eight[n].to_bytes(4, "little") for n in (0, 1, 2, 3, 5, 6, 7)
        )
    )
    return st.tuples(loads, st.lists(pieces, min_size=5, max_size=40)).map(
        lambda parts: parts[0] + b"".join(parts[1])
    )


def run(ring1: Ring1Bench, octets: bytes) -> None:
    """Run it for a while."""
    image, labels = assembled(PREAMBLE)
    for gfn in range(GUEST):
        ring1.memory.page(mfn_of(gfn))[:] = 0
    ring1.load(PREAMBLE)
    ring1.write(labels["hostile"], octets)
    for at in range(CODE, CODE + len(image), PAGE_SIZE):
        ring1.v.paging.invalidate_code(mfn_of(at >> PAGE_SHIFT))
    timers: list[threading.Timer] = []
    ring1.board.on_out = lambda: arm(ring1, timers)
    try:
        ring1.cpu.run_slice()
    except (Done, TripleFault, GuestCrashed):
        ring1.v.cpu.running = False
    for timer in timers:
        timer.cancel()
        timer.join()


def arm(ring1: Ring1Bench, timers: list[threading.Timer]) -> None:
    """The first time, when the preamble is over: stop the guest after a while."""
    if not timers:
        timers.append(threading.Timer(SLICE, ring1.cpu.stop_stub.ask))
        timers[0].start()


def check(ring1: Ring1Bench) -> None:
    cpu = ring1.v.cpu
    assert cpu.d[HFLAGS] & HF_CPL in (1, 3)
    assert not cpu.rflags & EFLAGS_IOPL
    frames = np.array([mfn_of(gfn) for gfn in range(GUEST)], np.uint64) << np.uint64(PAGE_SHIFT)
    space = ring1.v.paging._space
    for tree in space._trees.values():
        for leaf in tree.leaves.values():
            table = space.pool.tables[leaf.frame]
            shown = table[table & np.uint64(PAGE_PRESENT) != 0] & np.uint64(PTE_MFN_MASK)
            assert np.isin(shown, frames).all()
            writable = table[table & np.uint64(PAGE_RW) != 0] & np.uint64(PTE_MFN_MASK)
            assert not (writable == mfn_of(READ_ONLY >> PAGE_SHIFT) << PAGE_SHIFT).any()


def test_the_monitor_goes_on(ring1: Ring1Bench) -> None:
    @settings(max_examples=50, deadline=None)
    @given(code())
    def hostile(octets: bytes) -> None:
        run(ring1, octets)
        check(ring1)

    hostile()
