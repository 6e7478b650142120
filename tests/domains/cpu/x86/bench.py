"""A bench for the x86 engine alone: machine memory with hand-built page tables, and a stand-in for the core behind the gate.

Virtual addresses of the bench's guest (64-bit PV, all of it in one L1 table, read-write-execute unless told otherwise)

    0x400000  CODE     16 pages          0x420000  USER     the same frames, for guest user space
    0x410000  STACK    4 pages, top at 0x414000        0x430000  HOLE     nothing
    0x418000  DATA     4 pages
The window in L4 slot 260 holds a GDT page of the guest (null descriptors) and Xen's flat selectors.
"""

import os
from collections.abc import Callable
from typing import NoReturn

from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.pv.engine import X86Cpu
from domains.cpu.x86.pv.kinds import PV64
from domains.cpu.x86.registers import RSP
from hypervisor.machine.descriptor_window import PERDOMAIN_VIRT_START
from hypervisor.machine.memory import MachineMemory, create_memfd
from hypervisor.machine.paging import PAGE_ACCESSED, PAGE_DIRTY, PAGE_PRESENT, PAGE_RW, PAGE_USER, table_index
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE
from hypervisor.public.xen import shared_info
from hypervisor.wire.mailbox import MAILBOX_FRAMES, Mailbox
from hypervisor.wire.messages import Effect, EffectRecord
from tests.domains.cpu.x86.assembler import assemble_flat

NR_FRAMES = 1024
CODE, STACK_TOP, DATA, HOLE = 0x400000, 0x414000, 0x418000, 0x430000
DONE = 63
"""The hypercall that ends a bench run."""
FLAGS = PAGE_PRESENT | PAGE_RW | PAGE_USER | PAGE_ACCESSED | PAGE_DIRTY
L4, L3, L2, L1, WINDOW_L3, WINDOW_L2, WINDOW_L1, GUEST_GDT, XEN_GDT, SHARED, USER_L4 = range(1, 12)
FIRST_FREE = 32
CODE64, DATA32, CODE32 = 0x00AFFB000000FFFF, 0x00CFF3000000FFFF, 0x00CFFB000000FFFF


class Done(Exception):
    """The guest made hypercall DONE."""


class GuestCrashed(Exception):
    """The engine ended the guest; the text is the report."""


def new_memory(frames: int) -> MachineMemory:
    """A machine of so many frames. Its memfd is closed: of a thousand left open, select(2) in another test knew no way."""
    memory, fd = MachineMemory(frames), create_memfd("bench", frames)
    memory.map(fd, 0, frames, 0)
    os.close(fd)
    return memory


def new_mailbox() -> Mailbox:
    """An empty one, likewise."""
    fd = create_memfd("mailbox", MAILBOX_FRAMES)
    mailbox = Mailbox(fd)
    os.close(fd)
    return mailbox


class BenchGate:
    """Answers hypercalls from `answers` (number → function of the arguments), -ENOSYS for the rest, and records them."""

    domid = 1
    meter = None

    def __init__(self, nr_vcpus: int = 1) -> None:
        self.memory = new_memory(NR_FRAMES)
        self.mailbox = new_mailbox()
        self.calls: list[tuple[int, ...]] = []
        self.answers: dict[int, Callable[..., int | tuple[int, list[EffectRecord]]]] = {}
        self.pte_writes: list[tuple[int, int, int, int | None]] = []
        self.pte_result = 0
        self.stops = 0
        self.mailbox.set_vcpus(nr_vcpus)

    def hypercall(self, _vcpu: int, nr: int, *args: int) -> tuple[int, list[EffectRecord]]:
        self.calls.append((nr, *args))
        if nr == DONE:
            raise Done
        answer = self.answers[nr](*args) if nr in self.answers else -38
        return answer if isinstance(answer, tuple) else (answer, [])

    def post_event(self, _vcpu: int, _port: int) -> bool:
        return False

    def stopped(self, vcpu: int) -> tuple[int, list[EffectRecord]]:
        self.stops += 1
        self.mailbox.set_stop(vcpu, False)
        return 0, []

    def pte_write(
        self, _vcpu: int, va: int, size: int, value: int, old: int | None
    ) -> tuple[int, list[EffectRecord]]:
        self.pte_writes.append((va, size, value, old))
        return self.pte_result, []

    def map_ldt_page(self, _vcpu: int, _offset: int) -> tuple[int, list[EffectRecord]]:
        return -22, []

    def raised(self, vcpu: int = 0) -> list[int]:
        return self.mailbox.take_raised(vcpu)

    def crash(self, _vcpu: int, reason: str) -> NoReturn:
        raise GuestCrashed(reason)


class Bench:
    """A guest's CPU on the bench; `q[RAX]` and so on are its registers."""

    def __init__(self, gate: BenchGate | None = None) -> None:
        self.gate = gate or BenchGate()
        self.memory = self.gate.memory
        self._build_tables()
        self.cpu = X86Cpu(self.gate, PV64)  # type: ignore[arg-type]
        self.v = self.cpu.vcpu
        self.q = self.v.cpu.q
        self.memory.write((SHARED << PAGE_SHIFT) + 1, b"\1")  # upcalls are masked at first
        self.cpu.apply([[Effect.LOAD_CR3, L4], [Effect.LOAD_USER_CR3, USER_L4]])
        self.cpu.share(SHARED << PAGE_SHIFT)
        self.q[RSP] = STACK_TOP
        self.v.cpu.rflags = 0x202

    def _build_tables(self) -> None:
        def link(table: int, va: int, level: int, to: int, flags: int = FLAGS) -> None:
            self.memory.page(table)[table_index(va, level)] = to << PAGE_SHIFT | flags

        for root in (L4, USER_L4):
            link(root, CODE, 4, L3)
            link(root, PERDOMAIN_VIRT_START, 4, WINDOW_L3, FLAGS & ~PAGE_USER)
        link(L3, CODE, 3, L2)
        link(L2, CODE, 2, L1)
        for page in range(48):
            link(L1, CODE + page * PAGE_SIZE, 1, FIRST_FREE + page % 32)
        link(WINDOW_L3, 0, 3, WINDOW_L2, FLAGS & ~PAGE_USER)
        link(WINDOW_L2, 0, 2, WINDOW_L1, FLAGS & ~PAGE_USER)
        link(WINDOW_L1, 0, 1, GUEST_GDT, FLAGS & ~PAGE_USER)
        link(WINDOW_L1, 14 << PAGE_SHIFT, 1, XEN_GDT, FLAGS & ~PAGE_USER)
        for selector, descriptor in ((0xE023, CODE32), (0xE02B, DATA32), (0xE033, CODE64)):
            self.memory.page(XEN_GDT)[(selector & 0xFFF) >> 3] = descriptor

    def set_pte(self, va: int, flags: int) -> None:
        """Change the flags of a page of the bench's guest (without its L1's frame number)."""
        entry = int(self.memory.page(L1)[table_index(va, 1)])
        self.memory.page(L1)[table_index(va, 1)] = entry & ~0xFFF & ~(1 << 63) | flags
        self.v.paging.invalidate_all()

    def traps(self, *entries: tuple[int, int, int]) -> None:
        """Register (vector, flags, address)…"""
        self.cpu.apply([[Effect.TRAP_TABLE, [[vector, flags, 0xE033, at] for vector, flags, at in entries]]])

    def callback(self, kind: int, address: int, flags: int = 0) -> None:
        self.cpu.apply([[Effect.CALLBACK, int(kind), address, flags]])

    def run(
        self, source: str, entry: str = "start", setup: Callable[[dict[str, int]], object] | None = None
    ) -> None:
        """Assemble `source` at CODE, let `setup` use its symbols, run from `entry` until hypercall DONE."""
        code, symbols = assemble(source)
        self.write(CODE, code)
        if setup is not None:
            setup(symbols)
        self.q[RIP] = symbols[entry]
        self.go_on()

    def go_on(self) -> None:
        """Run slices until DONE."""
        try:
            while True:
                self.cpu.run_slice()
        except Done:
            self.v.cpu.running = False

    def write(self, va: int, data: bytes) -> None:
        self.v.paging.write(va, data)

    def words(self, va: int, count: int) -> list[int]:
        return memoryview(self.v.paging.read(va, 8 * count)).cast("Q").tolist()

    def word(self, va: int) -> int:
        return self.words(va, 1)[0]

    @property
    def pending(self) -> memoryview:
        return self.memory.view((SHARED << PAGE_SHIFT) + shared_info.offsetof("evtchn_pending"), 512)


PROLOGUE = f"""
.macro hypercall nr
    mov $\\nr, %eax
    syscall
.endm
.macro done
    hypercall {DONE}
.endm
.set DATA, {DATA}
.set HOLE, {HOLE}
"""
_assembled: dict[str, tuple[bytes, dict[str, int]]] = {}


def assemble(source: str) -> tuple[bytes, dict[str, int]]:
    """Machine code for CODE and the addresses of its labels."""
    if source not in _assembled:
        _assembled[source] = assemble_flat(PROLOGUE + ".globl _start\n_start:\n" + source, CODE)
    return _assembled[source]
