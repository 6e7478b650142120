"""Entry point of a domain process of an HVM guest (called by domains.cpu.process)."""

from typing import NoReturn

from domains.cpu.confinement import confine
from domains.cpu.gate import Gate
from domains.cpu.x86.hvm.engine import HvmCpu
from hypervisor.public.types import PAGE_SIZE
from hypervisor.wire.messages import EffectRecord


def run(gate: Gate, effects: list[EffectRecord]) -> NoReturn:
    """Run the guest that `effects`, the answer to START, describe."""
    cpu = HvmCpu(gate)
    gate.save_context = lambda _vcpu: cpu.save_context()
    cpu.boot(effects)
    confine(
        gate.mailbox.shadow_frames * PAGE_SIZE
    )  # copies of the guest's tables, as long as the shadows of them
    cpu.run()
