"""Entry point of a domain process whose image is x86 code of a PV guest (called by domains.cpu.process)."""

from typing import Final, NoReturn

from domains.cpu.confinement import confine
from domains.cpu.gate import Gate
from domains.cpu.x86.pv.engine import X86Cpu
from domains.cpu.x86.pv.kinds import PV32, PV64
from domains.cpu.x86.pv.posting import Posting
from hypervisor.wire.mailbox import Engine
from hypervisor.wire.messages import EffectRecord

KINDS: Final = {Engine.X86_64: PV64, Engine.X86_32: PV32}


def run(gate: Gate, effects: list[EffectRecord]) -> NoReturn:
    """Run the guest that `effects`, the answer to START, describe."""
    kind = KINDS[gate.mailbox.engine]
    cpu = X86Cpu(gate, kind)
    gate.save_context = cpu.save_context
    types = gate.frame_types()
    for v in cpu.turns.vcpus:
        v.posting = Posting(gate, v.vcpu_id, types, kind.adjust_l1e)
    cpu.boot(effects)
    confine()
    cpu.run()
