"""Entry point of a domain process whose image is x86 code (called by domains.cpu.process)."""

from typing import NoReturn

from domains.cpu.confinement import confine
from domains.cpu.gate import Gate
from domains.cpu.x86.context import save_context
from domains.cpu.x86.engine import X86Cpu
from hypervisor.wire.messages import EffectRecord


def run(gate: Gate, effects: list[EffectRecord]) -> NoReturn:
    """Run the guest that `effects`, the answer to START, describe."""
    cpu = X86Cpu(gate)
    gate.save_context = lambda: save_context(cpu.vcpu)
    cpu.boot(effects)
    confine()
    cpu.run()
