"""What a domain's process answers by itself is what the core would have answered."""

from domains.cpu.x86.registers import RBP, RBX
from hypervisor.hypercalls.xen_version import XEN_MAJOR, XEN_MINOR
from hypervisor.machine.cpuid import XEN_VERSION
from hypervisor.public.errno import Errno
from tests.domains.cpu.x86.bench import Bench


def test_the_version_is_known(bench: Bench) -> None:
    bench.run("start: xor %edi, %edi; hypercall 17; mov %rax, %rbx; done")
    assert bench.q[RBX] == XEN_VERSION == XEN_MAJOR << 16 | XEN_MINOR
    assert len(bench.gate.calls) == 1


def test_other_questions_about_the_version_go_to_the_core(bench: Bench) -> None:
    bench.run("start: mov $6, %edi; mov $DATA, %esi; hypercall 17; done")
    assert bench.gate.calls[0][:3] == (17, 6, 0x418000)


def test_a_vcpu_that_there_is_not_is_known(bench: Bench) -> None:
    bench.gate.answers[24] = lambda *_: 1
    bench.run(
        """
        start: mov $3, %edi; mov $1, %esi; hypercall 24; mov %rax, %rbx
        xor %esi, %esi; hypercall 24; mov %rax, %rbp
        done
        """
    )
    assert (bench.q[RBX], bench.q[RBP]) == ((1 << 64) - Errno.ENOENT, 1)
    assert [call[:3] for call in bench.gate.calls if call[0] != 63] == [(24, 3, 0)]
