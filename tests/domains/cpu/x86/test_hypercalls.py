"""SYSCALL from the guest's kernel: registers in, result out, effects in force before the next instruction."""

from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.pv.pv_state import Callback
from domains.cpu.x86.registers import R11, RAX, RBX, RCX
from hypervisor.wire.messages import Effect
from tests.domains.cpu.x86.bench import DATA, SHARED, Bench


def test_a_hypercall_passes_five_arguments_and_returns_its_result(bench: Bench) -> None:
    bench.gate.answers[12] = lambda *args: sum(args)
    bench.run(
        """
        start: mov $1, %edi; mov $2, %esi; mov $3, %edx; mov $4, %r10d; mov $5, %r8d
        hypercall 12
        after: mov %rax, %rbx; mov %rcx, DATA; mov %r11, DATA + 8
        done
        """
    )
    assert bench.q[RBX] == 15
    assert bench.gate.calls[0] == (12, 1, 2, 3, 4, 5)


def test_a_negative_result_is_sign_extended(bench: Bench) -> None:
    bench.run("start: hypercall 12; mov %rax, %rbx; done")
    assert bench.q[RBX] == (1 << 64) - 38


def test_rcx_and_r11_hold_rip_and_flags_after_a_hypercall(bench: Bench) -> None:
    labels: dict[str, int] = {}
    bench.run("start: stc; hypercall 12; after: mov %rcx, %rbx; mov %r11, DATA; done", setup=labels.update)
    assert bench.q[RBX] == labels["after"]
    assert bench.word(DATA) & 0x201 == 0x201


def test_flags_survive_a_hypercall(bench: Bench) -> None:
    bench.run("start: stc; std; hypercall 12; pushfq; pop %rbx; cld; done")
    assert bench.q[RBX] & 0x401 == 0x401


def test_an_unknown_number_goes_to_the_core(bench: Bench) -> None:
    bench.run("start: mov $0x123456789, %rax; syscall; done")
    assert bench.gate.calls[0][0] == 0x123456789


def test_effects_are_in_force_before_the_next_instruction(bench: Bench) -> None:
    bench.gate.answers[12] = lambda *_: (0, [[Effect.CALLBACK, 0, 0x1000, 0], [Effect.VM_ASSIST, 0x30]])
    bench.run("start: hypercall 12; done")
    assert bench.v.pv.callbacks[0] == Callback(0x1000, 0)
    assert bench.v.pv.vm_assist == 0x30


def test_code_written_from_outside_runs_after_flush_code(bench: Bench) -> None:
    """What was translated from a frame goes when another process writes it (hazard 3)."""

    def rewrite(*_: int) -> tuple[int, list[list[int]]]:
        maddr = bench.v.paging.translate(labels["patch"])
        bench.memory.write(maddr + 1, b"\x22")
        return 0, [[int(Effect.FLUSH_CODE), maddr >> 12, 1]]

    labels: dict[str, int] = {}
    bench.gate.answers[12] = rewrite
    source = """
        start: xor %ebx, %ebx
        again: call patch; add %eax, %ebx; cmp $0x11, %ebx; jne 1f
        hypercall 12
        jmp again
        1: done
        .balign 4096
        patch: mov $0x11, %eax; ret
    """
    bench.run(source, setup=labels.update)
    assert bench.q[RBX] == 0x33


def test_block_returns_at_once_when_an_event_is_pending(bench: Bench) -> None:
    bench.gate.mailbox.raise_port(5, 0)
    bench.v.events.upcall_mask = True
    bench.run(
        """
        start: lea handler(%rip), %rdi
        mov $29, %eax; mov $1, %edi; syscall
        done
        handler: done
        """,
        setup=lambda labels: bench.callback(0, labels["handler"]),
    )
    assert [call[0] for call in bench.gate.calls] == [63]
    assert bench.pending[0] == 1 << 5


def test_a_crash_report_names_the_rule_and_the_registers(bench: Bench) -> None:
    import pytest

    from tests.domains.cpu.x86.bench import GuestCrashed

    with pytest.raises(
        GuestCrashed, match=r"Unhandled: vec 6, #UD(.|\n)*rbx 0000000000000077(.|\n)*stack from"
    ):
        bench.run("start: mov $0x77, %ebx; ud2")


def test_registers_survive_being_given_back(bench: Bench) -> None:
    from domains.cpu.x86.pv.context import load_context, save_context

    bench.run("start: mov $0x1234, %ebx; stc; done")
    raw = save_context(bench.v)
    bench.q[RBX] = bench.q[RCX] = bench.q[RAX] = bench.q[R11] = 0
    load_context(bench.v, raw)
    assert bench.q[RBX] == 0x1234
    assert save_context(bench.v) == raw
    assert bench.q[RIP]
    assert SHARED
