"""Entry point of a domain process whose image is x86 code (called by domains.cpu.process)."""

from typing import NoReturn

from domains.cpu.confinement import confine
from domains.cpu.gate import Gate
from domains.cpu.x86.engine import X86Cpu
from domains.cpu.x86.guest_kinds import PV64
from hypervisor.wire.messages import EffectRecord


def run(gate: Gate, effects: list[EffectRecord]) -> NoReturn:
    """Run the guest that `effects`, the answer to START, describe."""
    kind = PV64
    cpu = X86Cpu(gate, kind)
    gate.save_context = lambda: kind.save_context(cpu.vcpu)
    cpu.boot(effects)
    confine()
    cpu.run()
