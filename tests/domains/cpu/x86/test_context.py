"""A vCPU's state as vcpu_guest_context: what is saved from one vCPU and loaded into another is the same, its FPU included."""

import struct

from domains.cpu.clock import TscClock
from domains.cpu.x86.emulator.cpu_state import CR
from domains.cpu.x86.pv.context import load_context, save_context
from domains.cpu.x86.pv.pit import COUNT, MODE, SPEAKER, Pit
from domains.cpu.x86.registers import CR4_TSD, RBX
from hypervisor.machine.debug_registers import DR6_DEFAULT, DR7_DEFAULT
from hypervisor.public.arch_x86.xen import VGCF_i387_valid, vcpu_guest_context
from hypervisor.wire.messages import Effect
from tests.domains.cpu.x86.bench import DATA, SHARED, Bench, new_mailbox

BUSY = """
start: movl $0x9fa0, DATA; ldmxcsr DATA
    fninit; movw $0x27f, DATA; fldcw DATA
    fldpi; fldl2e; fld1; fdivp; fld1; fldz; fcomp
    mov $0x1122334455667788, %rax; movq %rax, %xmm3; movlhps %xmm3, %xmm15; pshufd $0x1b, %xmm15, %xmm9
    fxsave DATA + 512
    done
"""
LOOK = "look: fxsave DATA + 1024; done"


def image(bench: Bench, at: int) -> bytes:
    """What FXSAVE left there, without the addresses of the last instruction, which are not kept."""
    whole = bench.v.paging.read(DATA + at, 416)
    return whole[:6] + whole[24:28] + whole[32:]


def test_the_fpu_is_saved_as_fxsave_writes_it(bench: Bench) -> None:
    bench.run(BUSY)
    context = vcpu_guest_context.unpack(save_context(bench.v))
    saved = context.fpu_ctxt.pack()
    assert context.flags & VGCF_i387_valid
    assert saved[:6] + saved[24:28] + saved[32:416] == image(bench, 512)


def test_another_vcpu_goes_on_with_the_fpu_that_was_saved(bench: Bench) -> None:
    bench.run(BUSY)
    other = Bench()
    load_context(other.v, save_context(bench.v))
    other.run(LOOK, entry="look")
    assert image(other, 1024) == image(bench, 512)


def test_exceptions_that_the_guest_has_not_looked_at_are_saved_too(bench: Bench) -> None:
    bench.write(DATA, struct.pack("<2d", 1.0, 3.0))
    bench.run("start: movsd DATA, %xmm0; divsd DATA + 8, %xmm0; fninit; fld1; fldpi; fdivrp; done")
    context = vcpu_guest_context.unpack(save_context(bench.v))
    _, status, mxcsr = struct.unpack_from("<HH20xI", context.fpu_ctxt.pack())
    assert (status & 0x3F, mxcsr & 0x3F) == (0x20, 0x20)


def test_without_an_image_the_fpu_is_as_after_a_reset(bench: Bench) -> None:
    bench.run(BUSY)
    context = vcpu_guest_context.unpack(save_context(bench.v))
    context.flags &= ~VGCF_i387_valid
    other = Bench()
    load_context(other.v, context.pack())
    other.run(LOOK, entry="look")
    control, status, tags = struct.unpack_from("<HHB", other.v.paging.read(DATA + 1024, 8))
    assert (control, status, tags) == (0x37F, 0, 0)
    assert struct.unpack("<I", other.v.paging.read(DATA + 1048, 4)) == (0x1F80,)


def test_a_debug_register_that_xen_would_not_set_is_as_after_a_reset(bench: Bench) -> None:
    """General detect is Xen's, and DR7 with it is refused: the guest runs without."""
    context = vcpu_guest_context.unpack(save_context(bench.v))
    context.debugreg = (0x1000, 0, 0, 0, 0, 0, DR6_DEFAULT, 1 << 13 | 1)
    load_context(bench.v, context.pack())
    assert vcpu_guest_context.unpack(save_context(bench.v)).debugreg == (
        *(0x1000, 0, 0, 0, 0, 0),
        *(DR6_DEFAULT, DR7_DEFAULT),
    )


def test_what_the_guest_set_of_cr4_goes_along(bench: Bench) -> None:
    bench.v.pv.cr4 |= CR4_TSD
    other = Bench()
    other.cpu.apply([[Effect.CONTEXT, save_context(bench.v), SHARED]])
    assert other.v.pv.cr4 == bench.v.pv.cr4
    assert other.q[CR + 4] & CR4_TSD


def test_the_timer_goes_on_where_it_was() -> None:
    pit, other = Pit(), Pit()
    for port, value in ((MODE, 0xB0), (COUNT, 0xFF), (COUNT, 0xFF), (SPEAKER, 1)):
        pit.write(port, value)
    other.restore(pit.snapshot())
    assert other.snapshot()._replace(elapsed=0) == pit.snapshot()._replace(elapsed=0)
    assert other.snapshot().elapsed - pit.snapshot().elapsed < 10**9


def test_a_domains_tsc_is_ahead_of_the_host_by_its_offset(bench: Bench) -> None:
    mailbox = new_mailbox()
    mailbox.set_epoch(1_000)
    plain = TscClock(mailbox)
    mailbox.set_tsc_offset(-(1 << 40))
    moved = TscClock(mailbox)
    assert plain.tsc_at_start == 1_000
    assert moved.tsc_at_start == (1_000 - (1 << 40)) % (1 << 64)
    bench.v.clock = moved
    bench.run("start: rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %rbx; done")
    assert 0 <= (moved.tsc() - bench.q[RBX]) % (1 << 64) < 60 * 10**9
