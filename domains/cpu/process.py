"""A domain process: from its fork to its guest's end.

The mailbox says which CPU the process plays. The core wrote it there when the toolstack created the domain, before this process
was made; nothing that a guest can write is looked at. The vCPU's first effects hold its mappings and its registers.
"""

from __future__ import annotations

import importlib
import signal
import socket
from typing import Final

from domains.cpu.gate import Gate
from hypervisor.wire.mailbox import Engine

ENGINES: Final = {
    Engine.PYTHON: "domains.kernel.run",
    Engine.X86_64: "domains.cpu.x86.run",
    Engine.X86_64_NESTED: "domains.cpu.x86.hvm_run",
}
"""Where `run(gate, effects)` lies for each kind of guest; imported only when needed."""


def run_domain(domid: int, path: str, pair: socket.socket, mailbox_fd: int) -> None:
    """The body of a domain process; returns only if its guest could not start."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    gate = Gate(domid, path, pair, mailbox_fd)
    effects = gate.start(0)
    engine = importlib.import_module(ENGINES[gate.mailbox.engine])
    engine.run(gate, effects)
