"""What a process says over its pair with the core, which it may say at any time and as often as it likes (docs/trust.md).

The flaw: each BOUND made the core connect once more, under the same id, and libzmq ends a program that uses an id twice. So any
process could end the machine before its first request.
"""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

from domains.cpu.gate import Gate
from hypervisor.wire import descriptors
from hypervisor.wire.descriptors import Note
from tests.hypervisor.raw_machine import machine, wait_until


def test_a_process_that_says_bound_twice_is_connected_once() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        served = Path(scratch) / "served"

        def says_bound_twice(domid: int, path: str, pair: socket.socket, mailbox_fd: int) -> None:
            gate = Gate(domid, path, pair, mailbox_fd)
            descriptors.send(pair, [Note.BOUND])
            gate.start(0)
            gate.hypercall(0, 17, 0)
            served.touch()
            gate.hypercall(0, 29, 1)  # SCHEDOP_block

        with machine(says_bound_twice):
            wait_until(served.exists, 20)
