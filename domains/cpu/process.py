"""A domain process: from its fork to its guest's end.

The image decides what runs: a page that begins with the magic of a Python guest runs on the Python CPU, anything else on the x86
engine. The vCPU's first effects hold its mappings and its registers.
"""

from __future__ import annotations

import importlib
import signal
import socket
from typing import Final

from domains.cpu.gate import Gate
from domains.cpu.page_walk import PageWalk, WalkFault
from hypervisor.public.arch_x86.xen import vcpu_guest_context
from hypervisor.public.types import PAGE_SHIFT
from hypervisor.wire.messages import Effect, EffectRecord

ENGINES: Final = {"python": "domains.kernel.run", "x86": "domains.cpu.x86.run"}
"""Where `run(gate, effects)` lies for each kind of image; imported only when needed."""
PYTHON_IMAGE_MAGIC: Final = b"XENOPY\0\0"
"""How the image of a Python guest begins; what follows is the Python kernel's (domains/kernel/image.py)."""


def run_domain(domid: int, path: str, pair: socket.socket, mailbox_fd: int) -> None:
    """The body of a domain process; returns only if its guest could not start."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    gate = Gate(domid, path, pair, mailbox_fd)
    effects = gate.start(0)
    engine = importlib.import_module(ENGINES[kind_of(gate, effects)])
    engine.run(gate, effects)


def kind_of(gate: Gate, effects: list[EffectRecord]) -> str:
    """Which engine the image at the first instruction is for."""
    context = next(vcpu_guest_context.unpack(e[1]) for e in effects if e[0] == Effect.CONTEXT)
    found = PageWalk(gate.memory).translate(context.ctrlreg[3] >> 12, context.user_regs.rip)
    if isinstance(found, WalkFault):
        return "x86"
    magic = gate.memory.read(found.mfn << PAGE_SHIFT, len(PYTHON_IMAGE_MAGIC))
    return "python" if magic == PYTHON_IMAGE_MAGIC else "x86"
