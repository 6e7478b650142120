"""Core and domain processes agree on which hypercalls never leave the process: a multicall's entry for one is sent back to it."""

from domains.cpu.local_calls import LOCAL_CALLS
from domains.cpu.x86.pv.local_hypercalls import LOCAL_HYPERCALLS
from hypervisor.hypercalls import multicall
from hypervisor.public.xen import Hypercall


def test_both_cpus_perform_what_the_core_leaves_to_them() -> None:
    left_to_them = set(multicall.LOCAL_HYPERCALLS) | {int(Hypercall.iret)}
    assert set(map(int, LOCAL_CALLS)) == left_to_them
    assert set(map(int, LOCAL_HYPERCALLS)) == left_to_them
