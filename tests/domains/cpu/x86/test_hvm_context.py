"""A vCPU's state leaves one process and another goes on with it, under either way of paging and from one to the other."""

import pytest

from domains.cpu.x86.registers import R8, R9, R10, R12, RBX
from hypervisor.public.types import PAGE_SIZE
from hypervisor.public.xen import shared_info, vcpu_time_info
from hypervisor.public.xenoscope_hvm import xenoscope_hvm_vcpu
from hypervisor.wire.messages import Effect
from tests.domains.cpu.x86.hvm_bench import DATA, GUEST, SHARED, USER_MODE, HvmBench, mfn_of

NESTED, SHADOW = 0, 256
WAYS = [(NESTED, NESTED), (SHADOW, SHADOW), (NESTED, SHADOW), (SHADOW, NESTED)]
PAT = 0x0007010600070106
MSRS = {
    0xC0000081: 0x23_0010_0000_0000,  # STAR
    0xC0000082: 0xFFFF_8000_0000_1000,
    0xC0000083: 0xFFFF_8000_0000_2000,
    0xC0000084: 0x47700,
    0xC0000100: 0x1234_5000,  # FS base
    0xC0000101: 0x5678_9000,
    0xC0000102: 0xFFFF_8000_0000_3000,
    0x174: 0x10,  # SYSENTER
    0x175: 0xFFFF_8000_0000_4000,
    0x176: 0xFFFF_8000_0000_5000,
    0x277: PAT,
    0x140: 1,
}

between_ways = pytest.mark.parametrize(
    ("first", "second"),
    WAYS,
    ids=[f"{'shadow' if a else 'nested'} to {'shadow' if b else 'nested'}" for a, b in WAYS],
)


def moved(guest: HvmBench, shadow_frames: int) -> HvmBench:
    """The guest in another process: with a copy of its memory, and with its state."""
    other = HvmBench(shadow_frames, guest.cpu.save_context())
    for gfn in range(GUEST):
        at = mfn_of(gfn) * PAGE_SIZE
        other.memory.write(at, guest.memory.read(at, PAGE_SIZE))
    return other


def state(guest: HvmBench) -> xenoscope_hvm_vcpu:
    """All of it but the time."""
    found = xenoscope_hvm_vcpu.unpack(guest.cpu.save_context())
    found.cpu.tsc = found.result_size = 0
    return found


def write_msrs() -> str:
    return "".join(
        f"mov ${number:#x}, %ecx; mov ${value & 0xFFFF_FFFF:#x}, %eax; mov ${value >> 32:#x}, %edx; wrmsr\n"
        for number, value in MSRS.items()
    )


@between_ways
def test_everything_that_a_guest_set_is_taken_along(first: int, second: int) -> None:
    guest = HvmBench(first)
    guest.run(
        f"""start: long_mode
        {write_msrs()}
        fldpi; fld1; movq %rsp, %xmm3
        mov $0x1111, %eax; mov %rax, %dr0; mov $0x402, %eax; mov %rax, %dr7
        mov $0x1f3000, %edi
        movl $0x1ff, 0xf0(%rdi); movl $0xb, 0x3e0(%rdi); movl $0x20, 0x80(%rdi)
        std; stc; done"""
    )
    found = state(guest)
    cpu = found.cpu
    assert (cpu.msr_star, cpu.msr_lstar, cpu.msr_cstar, cpu.msr_syscall_mask) == tuple(MSRS.values())[:4]
    assert (cpu.fs_base, cpu.gs_base, cpu.shadow_gs) == tuple(MSRS.values())[4:7]
    assert (cpu.sysenter_cs, cpu.sysenter_esp, cpu.sysenter_eip) == tuple(MSRS.values())[7:10]
    assert (found.pat, found.misc_features_enables) == (PAT, 1)
    assert (cpu.cr0, cpu.cr4, cpu.msr_efer) == (0x80010011, 0x220, 0xD01)
    assert (cpu.dr0, cpu.dr7, cpu.rflags & 0x401) == (0x1111, 0x402, 0x401)
    assert found.lapic_regs.data[0xF0:0xF2] == b"\xff\x01"
    assert state(moved(guest, second)) == found


@between_ways
def test_a_guest_goes_on_where_it_was(first: int, second: int) -> None:
    guest = HvmBench(first)
    guest.run(
        USER_MODE
        + """start: long_mode; gate 3, from_user, 3; gate 14, fault
        movq $7, DATA; mov $1000, %ecx; xor %ebx, %ebx
        again: add %rcx, %rbx; cmp $500, %ecx; jne 1f; done
        1: dec %ecx; jnz again
        to_user user
        user: incq DATA; int3
        from_user: mov DATA, %r8; mov %rsp, %r10
        mov $TABLES + 0x3000, %edi
        movq $0, 8 * (HOLE >> 12)(%rdi); mov $HOLE, %r9d; mov %r9, %cr2
        fault_at: mov HOLE, %rax
        fault: mov %cr2, %r12; done"""
    )
    half = guest.q[RBX]
    assert half == sum(range(500, 1001))
    other = moved(guest, second)
    other.go_on()
    assert other.q[RBX] == sum(range(1001))
    assert (other.q[R8], other.q[R12]) == (8, other.q[R9])
    assert other.words(DATA, 1) == [8]
    assert guest.words(DATA, 1) == [7]


@between_ways
def test_a_guest_goes_on_before_it_has_paging(first: int, second: int) -> None:
    guest = HvmBench(first)
    guest.run(
        "start: mov $STACK_TOP, %esp; push $5; done32; pop %ecx; long_mode; mov %rcx, %rbx; mov $6, %r10d; done"
    )
    other = moved(guest, second)
    other.go_on()
    assert other.q[R10] == 6


@pytest.mark.parametrize("shadow_frames", [NESTED, SHADOW])
def test_the_tsc_and_the_clock_follow_the_offset(shadow_frames: int) -> None:
    guest = HvmBench(shadow_frames)
    guest.run("start: long_mode; done; rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %rbx; done")
    raw = guest.cpu.save_context()
    guest.gate.mailbox.set_tsc_offset(1 << 50)
    guest.cpu.apply([[Effect.CONTEXT, raw]])
    before = guest.v.clock.tsc()
    guest.go_on()
    assert 1 << 50 < before < guest.q[RBX] < guest.v.clock.tsc()
    at = SHARED * PAGE_SIZE + shared_info.offsetof("vcpu_info") + 32
    told = vcpu_time_info.unpack(guest.memory.read(at, vcpu_time_info.sizeof))
    assert told.tsc_timestamp == guest.v.clock.tsc_at_start == guest.gate.mailbox.epoch + (1 << 50)
