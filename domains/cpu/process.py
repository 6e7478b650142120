"""A domain process: from its fork to its guest's end.

The mailbox says which CPU the process plays. The core wrote it there when the toolstack created the domain, before this process
was made; nothing that a guest can write is looked at. The vCPU's first effects hold its mappings and its registers.
"""

from __future__ import annotations

import gc
import importlib
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from domains.cpu.gate import Gate
from hypervisor.wire.mailbox import Engine, Mailbox

ENGINES: Final = {
    Engine.PYTHON: "domains.kernel.run",
    Engine.X86_64: "domains.cpu.x86.pv.run",
    Engine.X86_32: "domains.cpu.x86.pv.run",
    Engine.X86_64_NESTED: "domains.cpu.x86.hvm.run",
    Engine.X86_64_SHADOW: "domains.cpu.x86.hvm.run",
}
"""Where `run(gate, effects)` lies for each kind of guest; imported only when needed."""


def load_engine(mailbox_fd: int, python_modules: Sequence[str]) -> None:
    """Load the CPU that the next domain's process is to play, in the process which that one is forked from: the first guest of
    its kind waits for it, and all later ones have it. So it is with `python_modules`, for a guest in Python. What cannot be
    loaded is that domain's fault to find.
    """
    mailbox = Mailbox(mailbox_fd)
    engine = mailbox.engine
    mailbox.close()
    names = (ENGINES[engine], *(python_modules if engine is Engine.PYTHON else ()))
    missing = [name for name in names if name not in sys.modules]
    for name in missing:
        with suppress(ImportError):
            importlib.import_module(name)
    if missing:
        gc.freeze()


def run_domain(domid: int, path: str, pair: socket.socket, mailbox_fd: int) -> None:
    """The body of a domain process; returns only if its guest could not start."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    gate = Gate(domid, path, pair, mailbox_fd)
    effects = gate.start(0)
    try:
        engine = importlib.import_module(ENGINES[gate.mailbox.engine])
    except ImportError as error:
        gate.crash(0, f"its CPU cannot be loaded: {error}")
    engine.run(gate, effects)
