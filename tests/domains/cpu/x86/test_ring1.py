"""A kernel in ring 1 does what it does in ring 0, and each thing that only ring 0 can do is an exit with a cause.

The same programs run alone on the CPU, under nested and shadow paging in ring 0, and in ring 1; they end with the same memory and
registers. Negative control: without the translator the sensitive instructions tell of ring 1 (the last test).
"""

from collections import Counter

import pytest

from domains.cpu.x86.registers import RBX, RDX, RSI
from tests.domains.cpu.x86.hvm_bench import CODE, READ_ONLY, STACK_TOP, TripleFault
from tests.domains.cpu.x86.ring0_bench import KINDS, Kind, Ring0Bench, memory_of, registers
from tests.domains.cpu.x86.ring1_bench import SMALLEST_POOL, Ring1Bench, assembled

EXACT_STEPS: tuple[Kind, ...] = ("native", "nested")
"""Under shadow paging an HVM guest makes no step over an instruction that is an exit."""
DEMAND = """
    fault: push %eax; push %ebx; mov %cr2, %ebx; shr $12, %ebx; mov %ebx, %eax; shl $12, %eax; or $7, %eax
    mov %eax, TABLES + 0x1000(, %ebx, 4); pop %ebx; pop %eax; add $4, %esp; iret
"""
PROGRAMS = {
    "demand paging": "start: protected; gate 14, fault; movl $0, TABLES + 0x1140; mov %cr3, %eax; mov %eax, %cr3\n"
    "movl $5, 0x50010; mov 0x50010, %ebx; done" + DEMAND,
    "system calls": """start: protected; gate 0x80, system_call, 3; gate 3, breakpoint, 3; gate 13, end
        to_user user
        user: mov $3, %ecx; 1: mov %ecx, %eax; int $0x80; add %eax, %ebx; dec %ecx; jnz 1b; int3; .byte 0xcd, 3
        .byte 0x2e, 0xcd, 0x90; cli                                    /* INT 0x90 in three bytes, the last of which is a NOP */
        system_call: add $7, %eax; iret
        breakpoint: incl %esi; iret
        end: pop %edx; add $0x1000, %edi; testl $2, %edx; jnz 2f; done
        2: addl $2, (%esp); iret""",
    "timer": """start: protected; gate VECTOR, tick
        mov $5, %ecx; 1: sti; hlt; cli; dec %ecx; jnz 1b
        pushf; pop %esi
        done
        tick: incl %ebx; movb $0, LINE; iret""",
    "interrupt flag": """start: protected
        cli; pushf; pop %ebx; sti; pushf; pop %ecx
        pushf; andl $~0x200, (%esp); popf; pushf; pop %edx
        pushf; orl $0x3200, (%esp); popf; pushf; pop %esi
        std; stc; pushf; cld; clc; popf; pushf; pop %edi; cld
        pushfw; popfw; pushf; push $0x202; popf; done""",
    "sensitive": """start: protected
        sgdt DATA; sidt DATA + 8; sldt %eax; mov %eax, DATA + 0x10; str %eax; mov %eax, DATA + 0x14
        smsw %ax; mov %eax, DATA + 0x18
        smsw DATA + 0x1c; str DATA + 0x1e
        push %cs; pop DATA + 0x20; push %ss; pop DATA + 0x24; mov %cs, %eax; mov %eax, DATA + 0x28; mov %ss, DATA + 0x2c
        mov $8, %ecx; lar %ecx, %eax; mov %eax, DATA + 0x30; lsl %ecx, %eax; mov %eax, DATA + 0x34
        mov $0x28, %ecx; lar %ecx, %eax; mov %eax, DATA + 0x38; lsl %ecx, %eax; mov %eax, DATA + 0x3c
        mov $0x1b, %ecx; lar %ecx, %eax; mov %eax, DATA + 0x40; mov $0x30, %ecx; lar %ecx, %eax; setz DATA + 0x44
        mov $8, %eax; verr %ax; setz DATA + 0x45; verw %ax; setz DATA + 0x46; mov $0x10, %eax; verw %ax; setz DATA + 0x47
        lcall $8, $far; mov %cr4, %eax; mov %eax, DATA + 0x50
        clts; mov $0x0e, %eax; lmsw %ax; mov %cr0, %esi; clts; mov %cr0, %edi
        done
        far: mov (%esp), %eax; mov %eax, DATA + 0x48; mov 4(%esp), %eax; mov %eax, DATA + 0x4c; lret""",
    "segments": """start: protected; gate 13, end; gate 11, missing
        movl $0x0000ffff, gdt + 0x30; movl $0x00cf9200, gdt + 0x34      /* not accessed yet */
        mov $0x30, %eax; mov %eax, %fs; mov %fs:DATA, %ebx
        movw $0x4007, gdt + 0x32; mov %eax, %gs                         /* another base */
        movl $77, %gs:0x10; mov %gs:0x10, %ecx
        lss pointer, %esp; mov %esp, %edi; mov $STACK_TOP, %esp
        movb $0x12, gdt + 0x35; lgdt gdt_pointer; mov %eax, %es
        missing: pop %esi; mov $0x38, %eax; mov %eax, %es
        pointer: .long STACK_TOP - 64; .word 0x10
        end: pop %edx; done""",
    "ports": """start: protected; gate 13, general; gate 14, page
        mov $0x1f0, %edx; mov $DATA, %edi; mov $5, %ecx; cld; rep insl; in %dx, %al; mov %eax, %ebx
        mov $DATA + 9, %esi; mov $3, %ecx; std; rep outsb; cld; outsw; mov $0, %ecx; rep insb
        movl $0, TABLES + 0x1000 + 4 * 0x51; invlpg 0x51000; mov $0x50ff8, %edi; mov $4, %ecx; rep insl
        to_user user
        user: in %dx, %al; insb; cli
        page: pop %eax; mov %ecx, %ebp; movl $0x51007, TABLES + 0x1000 + 4 * 0x51; iret
        general: pop %eax; incl %edx; incl (%esp); cmp $0x1f3, %edx; je 1f; iret
        1: done""",
    "large pages": """start: protected; mov $0x10, %eax; mov %eax, %cr4
        movl $0x87, TABLES + 4; movl $5, 0x450010; mov 0x50010, %ebx; movl $6, 0x50020
        movl $0x400083, TABLES + 8; mov 0x450020, %ecx
        movl $0, TABLES + 4; invlpg 0x450000; gate 14, end; mov 0x450000, %edx
        end: pop %esi; mov %cr2, %edi; done""",
    "write protect": """start: protected; gate 14, fault; gate 3, end, 3
        movl $0x50005, TABLES + 0x1140; movl $0x51005, TABLES + 0x1144; mov %cr3, %eax; mov %eax, %cr3
        mov %cr0, %eax; and $~0x10000, %eax; mov %eax, %cr0
        movb $9, 0x50000; mov 0x51000, %cl; movb $9, 0x51000
        mov %cr0, %eax; or $0x10000, %eax; mov %eax, %cr0
        movb $8, 0x50000; movb $8, 0x50001
        to_user user
        user: mov 0x50000, %bl; movb $7, 0x51000; int3
        fault: pop %edx; add %edx, %esi; mov %cr2, %edi; orl $2, TABLES + 0x1140; orl $2, TABLES + 0x1144; iret
        end: done""",
    "three levels, no execute": """start: protected; xor %eax, %eax; mov %cr0, %eax; and $0x7fffffff, %eax; mov %eax, %cr0
        movl $(TABLES + 0x3001), TABLES + 0x2000; movl $(TABLES + 0x4007), TABLES + 0x3000; xor %ecx, %ecx
        1: mov %ecx, %eax; shl $12, %eax; or $7, %eax; mov %eax, TABLES + 0x4000(, %ecx, 8); inc %ecx; cmp $0x1f0, %ecx; jb 1b
        mov $0xc0000080, %ecx; rdmsr; or $0x800, %eax; wrmsr
        mov $0x20, %eax; mov %eax, %cr4; mov $(TABLES + 0x2000), %eax; mov %eax, %cr3; mov $0x80010011, %eax; mov %eax, %cr0
        gate 14, fault
        movb $0xc3, 0x50000; movl $0x80000000, TABLES + 0x4000 + 8 * 0x50 + 4; invlpg 0x50000
        mov $0x50000, %eax; call *%eax; mov 0x50000, %bl
        mov %cr4, %edx; done
        fault: pop %esi; mov %cr2, %edi; movl $0, TABLES + 0x4000 + 8 * 0x50 + 4; iret""",
    "code that is written": """start: protected
        movl $0xc3580e90, 0x50000; mov $0x50000, %edi; call *%edi; mov %eax, %ebx      /* nop; push %cs; pop %eax; ret */
        movl $0xc3589c90, 0x50000; call *%edi; mov %eax, %ecx                           /* pushf in its place */
        movb $0x90, 0x50001; push $7; push $0x50000; pop %edx; movb $0x58, 0x50000; movb $0x50, 0x50001; movb $0xc3, 0x50002
        movw $0x010f, 0x50ffd; movl $0x04800005, 0x50fff; movw $0xc300, 0x51003; mov $0x50ffd, %edi
        call *%edi                                                                      /* sgdt 0x48000 */
        movb $0x9d, 0x50fff; movb $0xc3, 0x51000; mov $0x50fff, %edi; pushl $after; pushl $0xed7; jmp *%edi
        after: pushf; pop %esi; cld; done""",
    "single steps": """start: protected; gate 1, step; gate 0x80, system_call, 3
        pushf; orl $0x100, (%esp); popf; nop; cli; pushf; pop %ecx; mov %cr0, %eax; inc %ebx; int $0x80; mov %eax, %cr0
        pushf; andl $~0x100, (%esp); popf; nop; nop
        done
        step: incl %esi; mov (%esp), %edi; add %edi, %ebp; iret
        system_call: incl %edx; iret""",
    "faults": """start: protected; gate 6, invalid; gate 0, divide; gate 14, page; gate 13, general; gate 8, double
        ud2; xor %ecx, %ecx; div %ecx; movl $1, 0x1000000
        mov $0x58, %eax; mov %ax, %fs
        movl $0, IDT + 8 * 13 + 4
        mov $0x60000, %eax; mov %ax, %ds
        done
        invalid: incl %ebx; addl $2, (%esp); iret
        divide: incl %ebx; addl $2, (%esp); iret
        page: pop %esi; mov %cr2, %edi; addl $10, (%esp); iret
        general: pop %eax; addl $2, (%esp); incl %ebx; iret
        double: pop %eax; mov %cr2, %edx; done""",
}


@pytest.fixture
def ring1() -> Ring1Bench:
    return Ring1Bench()


@pytest.mark.parametrize("source", PROGRAMS.values(), ids=PROGRAMS)
def test_ring_1_ends_as_ring_0(ring1: Ring1Bench, source: str) -> None:
    code, labels = assembled(source)
    ring1.run(source)
    recycling = Ring1Bench(SMALLEST_POOL)
    recycling.run(source)
    assert (registers(recycling), memory_of(recycling)) == (registers(ring1), memory_of(ring1))
    for kind in EXACT_STEPS if source == PROGRAMS["single steps"] else KINDS:
        ring0 = Ring0Bench(kind)
        ring0.start(code, CODE, labels["start"], STACK_TOP)
        assert registers(ring1) == registers(ring0), kind
        assert memory_of(ring1) == memory_of(ring0), kind


def between(ring1: Ring1Bench) -> dict[str, int]:
    """The exits between the program's last two stores to a port."""
    first, last = ring1.board.seen[-2:]
    return {name: count for name, count in (last - first).items() if name != "trap out"}


FAULTS = """start: protected; gate 14, fault; movl $0, TABLES + 0x1140; movl $0, TABLES + 0x1144; mov %cr3, %eax; mov %eax, %cr3
    out %al, $0x80; movl $5, 0x50010; out %al, $0x80; movl $6, 0x51010; out %al, $0x80; done"""


STEPS = ["guest's own fault", "trap mov from cr2", "traced store", "call-out iretd", "hidden fault"]


class Log(Counter[str]):
    """A counter that remembers the order."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []

    def __setitem__(self, name: str, count: int) -> None:
        self.order.append(name)
        super().__setitem__(name, count)


def test_a_demand_fault_is_five_exits(ring1: Ring1Bench) -> None:
    """The steps of VMware's ESX: the fault is routed, CR2, the entry's store and IRET are emulated, the shadow is filled in."""
    log = ring1.v.exits = Log()
    ring1.run(FAULTS + DEMAND)
    last = [name for name in log.order if name != "page fault"]
    outs = [index for index, name in enumerate(last) if name == "trap out"]
    assert last[outs[-2] + 1 : outs[-1]] == STEPS


def test_where_tables_are_compared_at_flushes_the_entrys_store_is_none() -> None:
    ring1 = Ring1Bench(traces_tables=False)
    ring1.run(FAULTS + DEMAND)
    assert between(ring1) == {
        **{
            "guest's own fault": 1,
            "trap mov from cr2": 1,
            "call-out iretd": 1,
            "hidden fault": 1,
            "page fault": 2,
        }
    }


def test_a_system_call_is_two_exits(ring1: Ring1Bench) -> None:
    """And the two of the OUT, which ring 3 may do by its IOPL."""
    ring1.run(
        """start: protected; gate 0x80, system_call, 3; gate 3, end, 3
        pushl $0x23; pushl $(STACK_TOP - 0x2000); pushl $0x3202; pushl $0x1b; pushl $user; iret
        user: int $0x80; out %al, $0x80; int $0x80; out %al, $0x80; int3
        system_call: iret
        end: done"""
    )
    assert between(ring1) == {"software interrupt": 1, "call-out iretd": 1}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("cli", {"trap cli": 1}),
        ("pushf; popf", {"call-out pushfd": 1, "call-out popfd": 1}),
        ("mov %cr3, %eax; mov %eax, %cr3", {"trap mov from cr3": 1, "trap mov to cr3": 1}),
        ("invlpg 0x50000", {"trap invlpg": 1}),
        ("push %cs; pop %ecx", {"call-out push cs": 1}),
        ("mov $8, %ecx; lar %ecx, %eax", {"call-out lar": 1}),
        ("mov %ds, %ecx; mov %ecx, %fs; pushl $5; pop %ecx; nop", {}),
        ("orl $0, TABLES + 0x1144", {"page fault": 1, "traced store": 1, "step": 1}),
    ],
)
def test_each_exit_has_a_cause(ring1: Ring1Bench, code: str, expected: dict[str, int]) -> None:
    ring1.run(
        f"start: protected; push %eax; mov 0x50000, %ecx; mov TABLES + 0x1144, %ecx; out %al, $0x80; {code}; out %al, $0x80; done"
    )
    assert between(ring1) == expected


def test_a_page_table_that_maps_itself_is_traced_from_its_first_shadow_on(ring1: Ring1Bench) -> None:
    ring1.run(
        """start: protected; mov $0, %ecx
        1: mov TABLES + 0x1000(, %ecx, 4), %eax
        or $0x67, %eax; mov %eax, TABLES + 0x3000(, %ecx, 4); inc %ecx; cmp $0x1f0, %ecx; jb 1b
        movl $(TABLES + 0x3067), TABLES + 0x2000; mov $(TABLES + 0x2000), %eax; mov %eax, %cr3
        mov TABLES + 0x3140, %ecx; out %al, $0x80; movl $0x51007, TABLES + 0x3140; out %al, $0x80; done"""
    )
    assert between(ring1) == {"page fault": 1, "traced store": 1}


def test_a_frame_that_may_not_be_written_stays_so_when_it_is_no_longer_traced(ring1: Ring1Bench) -> None:
    ring1.write(
        READ_ONLY + 8, (0x00CF9B000000FFFF).to_bytes(8, "little") + (0x00CF93000000FFFF).to_bytes(8, "little")
    )
    ring1.run(
        """start: protected; gate 13, end
        movl $0x1f1007, TABLES + 0x1000 + 4 * 0x51; invlpg 0x51000
        lgdt other; mov $0x10, %eax; mov %eax, %fs; lgdt gdt_pointer
        movl $1, 0x51010; nop; movl $1, 0x51010
        other: .word 63; .long 0x51000
        end: done"""
    )
    assert ring1.word(READ_ONLY + 0x10) == 0xFFFF
    assert ring1.exits["no memory"] == 1


def test_user_space_cannot_return_to_virtual_8086_mode(ring1: Ring1Bench) -> None:
    ring1.run(
        """start: protected; gate 3, end, 3
        to_user user
        user: pushl $0x23002; push %cs; pushl $after; iret
        after: mov $7, %ebx; pushf; pop %esi; int3
        end: done"""
    )
    assert (ring1.q[RBX], ring1.q[RSI] & 0x23200) == (7, 0x200)


@pytest.mark.parametrize(
    "instruction", [".byte 0xcd, 0x81", ".byte 0x67, 0xcd, 0x81", ".byte 0x67, 0x2e, 0xcd, 0x81"]
)
def test_an_int_n_that_is_refused_faults_at_its_beginning(ring1: Ring1Bench, instruction: str) -> None:
    ring1.run(
        f"""start: protected; gate 13, fault
        to_user user
        user: nop
        here: {instruction}
        fault: pop %ebx; pop %esi; done"""
    )
    assert (ring1.q[RBX], ring1.q[RSI]) == (8 * 0x81 + 2, ring1.labels["here"])


def test_an_interrupt_waits_for_the_instruction_after_sti(ring1: Ring1Bench) -> None:
    ring1.run(
        """start: protected; gate VECTOR, tick
        movb $1, LINE; sti; inc %esi; inc %edi; done
        tick: mov %esi, %ebx; mov %edi, %edx; movb $0, LINE; iret"""
    )
    assert (ring1.q[RBX], ring1.q[RDX]) == (1, 0)


def test_an_interrupt_that_comes_while_the_guest_runs_is_taken_with_the_next_slice(ring1: Ring1Bench) -> None:
    ring1.board.on_out = ring1.cpu.stop_stub.ask
    ring1.load(
        "start: protected; gate VECTOR, tick; sti; out %al, $0x80; 1: jmp 1b; tick: mov $1, %ebx; done"
    )
    ring1.cpu.run_slice()
    ring1.board.line[0] = 1
    ring1.go_on()
    assert ring1.q[RBX] == 1


@pytest.mark.parametrize(
    "code",
    [
        "lidt nothing; ud2; nothing: .word 0; .long 0",
        "movl $0, IDT + 8 * 6; movl $0, IDT + 8 * 6 + 4; ud2",
        "movl $0, TABLES + 0x1000 + 4 * 0x8f; invlpg STACK_TOP - 4; ud2",
    ],
    ids=["no IDT", "no gate", "no stack"],
)
def test_what_cannot_be_delivered_is_a_triple_fault(ring1: Ring1Bench, code: str) -> None:
    with pytest.raises(TripleFault, match="triple fault"):
        ring1.run(f"start: protected; gate 6, double_; {code}\ndouble_: done")


def test_without_the_translator_ring_1_shows(ring1: Ring1Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the comparisons above."""
    monkeypatch.setattr(ring1.cpu.translator, "before", lambda block: (block.most, False))
    ring1.run("start: protected; cli; pushf; pop %ebx; push %cs; pop %esi; push $2; popf; sti; cli; hlt")
    assert (ring1.q[RBX] & 0x200, ring1.q[RSI]) == (0x200, 9)
