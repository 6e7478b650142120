"""A granter that runs, on an emulated CPU in another process, and takes its entry back and gives it again as fast as it can.

    granter   flags = permit ─► LOCK CMPXCHG flags: permit ─► 0 ─► page = SECRET, page = PUBLIC, count ─► again
    core      maps and copies meanwhile and stops nobody; every hypercall is followed by a recount

What the granter took back is not used any more, and what is in use it cannot take back (G2, G11, G12).
Negative control: on a CPU whose LOCK is not atomic towards the core, marks vanish, and the secret is seen.
"""

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from domains.cpu.x86.emulator.emulation import open_cpu
from domains.cpu.x86.registers import R8, R9, RDI, RSI
from hypervisor.grants.shared_entries import SharedEntriesV1
from hypervisor.public.grant_table import GNTST_general_error, GNTST_okay
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE
from hypervisor.public.xen import DOMID_SELF
from tests.hypervisor.grants.granting import (
    HOST,
    READONLY,
    USED,
    GrantingDomains,
    by_frame,
    by_ref,
)
from tests.without_atomic_locks import printed_without_atomic_locks

REF = 8
PUBLIC, SECRET = b"public  ", b"secret!!"
ROUNDS = 600
CODE, TABLE, PAGE = 0x10000, 0x20000, 0x30000
PROGRAM = bytes.fromhex(
    "66c7070100 b920000000 ffc9 75fc"  # 1: movw $1, (%rdi); mov $32, %ecx; 0: dec %ecx; jnz 0b
    "0fb707 a818 75f9 31d2 66f00fb117 75f0"  # 2: movzwl (%rdi), %eax; test $0x18, %al; jnz 2b; …; lock cmpxchg %dx, (%rdi)
    "4c8906 4c890e 48ff4608 ebd6"  # mov %r8, (%rsi); mov %r9, (%rsi); incq 8(%rsi); jmp 1b
)


@contextmanager
def granter_at_work(house: GrantingDomains) -> Iterator[None]:
    """Domain 1's kernel, on an emulated CPU in a process of its own, until the end of the block."""
    memory, page = house.machine.memory, house.dom1.page(0).mfn
    house.dom1.offer(REF, 0, page, flags=0)
    memory.write(page << PAGE_SHIFT, PUBLIC)
    pid = os.fork()
    if pid == 0:
        try:
            uc, library, cpu = open_cpu()
            uc.mem_map(CODE, PAGE_SIZE)
            uc.mem_write(CODE, PROGRAM)
            for at, mfn in ((TABLE, house.dom1.grants.frames[0]), (PAGE, page)):
                library.map_memory(memory.base + (mfn << PAGE_SHIFT), PAGE_SIZE, at)
            cpu.q[RDI], cpu.q[RSI] = TABLE + REF * SharedEntriesV1.entry.sizeof, PAGE
            cpu.q[R8], cpu.q[R9] = (int.from_bytes(word, "little") for word in (SECRET, PUBLIC))
            library.emu_start(CODE)
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def copies(house: GrantingDomains) -> set[bytes]:
    """What was seen in the granter's page by copies of it that succeeded."""
    mine, seen = house.dom0.page(5), set()
    for _ in range(ROUNDS):
        status = house.dom0.copy(by_ref(1, REF), by_frame(DOMID_SELF, mine.mfn), 8, 1)
        assert status in (GNTST_okay, GNTST_general_error)
        if status == GNTST_okay:
            seen.add(house.machine.memory.read(mine.mfn << PAGE_SHIFT, 8))
    return seen


def test_what_was_taken_back_is_never_copied(house: GrantingDomains) -> None:
    with granter_at_work(house):
        assert copies(house) == {PUBLIC}


def test_what_is_mapped_is_not_taken_back(house: GrantingDomains) -> None:
    """Readers and writers in random order: the granter goes on exactly while none is left."""
    chance, memory = random.Random(1), house.machine.memory
    page = house.dom1.page(0).mfn << PAGE_SHIFT
    with granter_at_work(house):
        done = 0
        while done < ROUNDS // 20:
            flags = HOST | chance.choice([0, READONLY])
            one, two = (house.dom0.map(house.dom1, REF, house.dom0.page(at).va, flags) for at in (0, 1))
            assert {one.status, two.status} <= {GNTST_okay, GNTST_general_error}
            held = [(op, at) for at, op in enumerate((one, two)) if op.status == GNTST_okay]
            chance.shuffle(held)
            while held:
                before = memory.read(page, 16)
                assert before[:8] == PUBLIC
                assert house.dom1.used(REF)
                done += 1
                op, at = held.pop()
                assert memory.read(page, 16) == before
                assert house.dom0.unmap(op.handle, house.dom0.page(at).va) == GNTST_okay


def test_nobody_is_asked_to_stop_and_marks_go_with_the_last_use(house: GrantingDomains) -> None:
    house.dom1.offer(REF, 0, house.dom1.page(0).mfn)
    va = house.dom0.page(0).va
    op = house.dom0.map(house.dom1, REF, va)
    assert (op.status, house.dom1.used(REF)) == (GNTST_okay, USED)
    assert house.dom0.unmap(op.handle, va) == GNTST_okay
    assert house.dom1.used(REF) == 0
    assert not house.dom1.built.domain.mailbox.stop(0)


CONTROL = """
from tests.hypervisor.grants import test_running_granter as test
from tests.hypervisor.grants.granting import granting_domains
with granting_domains() as house:
    house.honest = {0, 2}
    with test.granter_at_work(house):
        while test.SECRET not in test.copies(house):
            pass
print("the secret was copied")
"""


@pytest.mark.timeout(120)
def test_control_without_atomic_locks_marks_vanish_and_the_secret_is_copied() -> None:
    assert printed_without_atomic_locks(CONTROL) == "the secret was copied\n"
