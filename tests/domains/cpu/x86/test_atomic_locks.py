"""A guest's LOCKed instructions lose nothing that another process writes into the same word at the same time: the core sets grant
flags of a guest that runs.

Negative control: where the other translation is not asked for, changes are lost.
"""

import ctypes
import os
import signal

import pytest

from domains.cpu.x86.emulator.interposed import interposed
from domains.cpu.x86.emulator.machine_code import CodePage
from domains.cpu.x86.registers import RBX, RDX
from hypervisor.machine.memory import MachineMemory
from hypervisor.public.types import PAGE_SHIFT
from tests.domains.cpu.x86.bench import CODE, FIRST_FREE, Bench
from tests.domains.cpu.x86.bench import DATA as PV_DATA
from tests.domains.cpu.x86.hvm_bench import DATA as HVM_DATA
from tests.domains.cpu.x86.hvm_bench import HvmBench
from tests.without_atomic_locks import printed_without_atomic_locks

COUNT_AT = 64
# Not NOT: what is added to a word that is inverted for a moment is subtracted. Its translation is XOR's.
ADD_ONE = {
    "inc": "lock incl (%rdi)",
    "add": "lock addl $1, (%rdi)",
    "sub": "lock subl $-1, (%rdi)",
    "xadd": "mov $1, %eax; lock xadd %eax, (%rdi)",
    "cmpxchg": "mov (%rdi), %eax; 2: lea 1(%rax), %edx; lock cmpxchg %edx, (%rdi); jnz 2b",
    "or, xor, and": "lock orl $0x8000, (%rdi); lock xorl $0x8000, (%rdi); lock andl $0xffff7fff, (%rdi); lock incl (%rdi)",
    "bts, btr": "lock btsl $15, (%rdi); lock btrl $15, (%rdi); lock incl (%rdi)",
}
TIMES = 30_000
"""The lower half of the word, of which bit 15 is used, does not run over."""
NEIGHBOUR = bytes.fromhex("f08107 00000100 ffce 75f5 c3")
"""1: lock addl $0x10000, (%rdi); dec %esi; jnz 1b; ret"""
BATCH = 10_001


class Neighbour:
    """Another process, which adds 1 to the upper half of a word of machine memory, and counts, until it is ended."""

    def __init__(self, memory: MachineMemory, maddr: int) -> None:
        self._memory, self._maddr = memory, maddr
        page = CodePage()
        page.put(0, NEIGHBOUR)
        add = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32)(page.address)
        self._pid = os.fork()
        if self._pid == 0:
            done: list[bool] = []
            signal.signal(signal.SIGTERM, lambda *_: done.append(True))
            count = ctypes.c_uint32.from_address(memory.base + maddr + COUNT_AT)
            while not done:
                add(memory.base + maddr, BATCH)
                count.value += BATCH
            os._exit(0)

    def end(self) -> tuple[int, int]:
        """The word's halves, less what this process added: what else was done to them."""
        os.kill(self._pid, signal.SIGTERM)
        os.waitpid(self._pid, 0)
        word, count = (
            int.from_bytes(self._memory.read(self._maddr + at, 4), "little") for at in (0, COUNT_AT)
        )
        return word & 0xFFFF, (word - (count << 16) & 0xFFFFFFFF) >> 16


def loop(work: str, times: int, data: int) -> str:
    return f"mov ${data}, %edi; mov ${times}, %ecx; 1: {work}; dec %ecx; jnz 1b; done"


def by_pv(work: str, times: int) -> tuple[int, int]:
    bench = Bench()
    maddr = FIRST_FREE + ((PV_DATA - CODE) >> PAGE_SHIFT) << PAGE_SHIFT
    neighbour = Neighbour(bench.memory, maddr)
    try:
        bench.run("start: " + loop(work, times, PV_DATA))
    finally:
        found = neighbour.end()
    return found


def by_hvm(work: str, times: int, shadow_frames: int) -> tuple[int, int]:
    guest = HvmBench(shadow_frames)
    neighbour = Neighbour(guest.memory, guest.mfn(HVM_DATA >> PAGE_SHIFT) << PAGE_SHIFT)
    try:
        guest.run("start: long_mode; " + loop(work, times, HVM_DATA))
    finally:
        found = neighbour.end()
    return found


@pytest.mark.parametrize("name", ADD_ONE)
def test_two_processes_lose_no_change(name: str) -> None:
    assert by_pv(ADD_ONE[name], TIMES) == (TIMES, 0)


@pytest.mark.parametrize("shadow_frames", [0, 64], ids=["nested", "shadow"])
def test_nor_do_other_kinds_of_guests(shadow_frames: int) -> None:
    assert by_hvm(ADD_ONE["cmpxchg"], TIMES, shadow_frames) == (TIMES, 0)


@pytest.mark.parametrize("offset", [1, 3, 61, 4093], ids=lambda offset: f"offset {offset}")
def test_an_operand_that_is_not_aligned_is_worked_on_once(bench: Bench, offset: int) -> None:
    """Across a page's end, too. It is in a block of its own, and what is around it is done once as well."""
    before = interposed().atomic_locks.unaligned
    bench.run(
        f"start: mov $DATA + {offset}, %edi; mov $100, %ecx; xor %ebx, %ebx; movl $5, (%rdi)\n"
        "1: inc %ebx; lock addl $3, (%rdi); inc %ebx; dec %ecx; jnz 1b; mov (%rdi), %edx; done"
    )
    assert (bench.q[RDX], bench.q[RBX]) == (305, 200)
    assert interposed().atomic_locks.unaligned - before == 100


CONTROL = f"""
from tests.domains.cpu.x86.test_atomic_locks import ADD_ONE, by_pv
while by_pv(ADD_ONE["cmpxchg"], {TIMES}) == ({TIMES}, 0):
    pass
print("changes were lost")
"""


@pytest.mark.timeout(120)
def test_control_without_them_changes_are_lost() -> None:
    assert printed_without_atomic_locks(CONTROL) == "changes were lost\n"
