"""Every hypercall with extreme numbers, in registers and in its structures: the hypervisor refuses or performs, and has no bug.

Times, sizes, indices and counts that a guest gives are of any size; 0, powers of two and their neighbours are where checks and
clamps go wrong.
"""

from __future__ import annotations

import random

import pytest

from hypervisor.domain.run_state import Run
from hypervisor.hypercalls.table import HYPERCALLS
from hypervisor.public.errno import XenError
from hypervisor.public.xen import Hypercall
from tests.inprocess import Built, InProcess, hypervisor_in_process

EXTREMES = [0, 1, 1 << 31, 1 << 32, (1 << 50) - 1, 1 << 50, (1 << 50) + 1, 1 << 62]
EXTREMES += [(1 << 63) - 1, 1 << 63, (1 << 64) - 1]
WORDS = 64
CALLS = 300
OWN = [int(nr) for nr in HYPERCALLS if nr != Hypercall.multicall]
"""A multicall of extreme length ends, and takes its time."""


def fresh(machine: InProcess, before: Built | None, privileged: bool) -> Built:
    """A domain that can make hypercalls: the one there is, or a new one in its place."""
    if before is not None:
        if before.vcpu.run.state is Run.BLOCKED:
            machine.hv.run.vcpu_unblock(before.vcpu)
        if before.vcpu.run.state in (Run.NEW, Run.GUEST):
            return before
        machine.destroy(before.domain)
    return machine.build(privileged=privileged)


@pytest.mark.parametrize("privileged", [False, True], ids=["a guest", "the control domain"])
@pytest.mark.parametrize("seed", [1, 2])
def test_no_number_is_too_large(seed: int, privileged: bool) -> None:
    chance = random.Random(seed)
    with hypervisor_in_process() as machine:
        caller = None
        for _ in range(CALLS):
            caller = fresh(machine, caller, privileged)
            numbers = [*EXTREMES, int(caller.scratch)]
            words = [
                chance.choice(numbers) if chance.random() < 0.8 else chance.getrandbits(64)
                for _ in range(WORDS)
            ]
            try:
                raw = b"".join(word.to_bytes(8, "little") for word in words)
                machine.hv.mmu.guest.copy_to_guest(caller.vcpu.mem, caller.scratch, raw)
            except XenError:  # it unmapped its own page
                machine.destroy(caller.domain)
                caller = None
                continue
            registers = [*EXTREMES, *range(40), *[int(caller.scratch)] * 20]
            machine.hypercall(caller.vcpu, chance.choice(OWN), *(chance.choice(registers) for _ in range(5)))
        log = machine.hv.log.read().decode("utf-8", "replace")
        assert "hypervisor bug" not in log, log[log.index("hypervisor bug") :]
