"""What a domain *process* may do to the core by its connection: end its own domain, and nothing else (docs/trust.md).

Each guest bends the messages of its own gate; the machine goes on, says why in its log, and everything of that domain comes back.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.machines import Machine, wait_until

PREFACE = """
import zmq
from hypervisor.wire.messages import pack


class Probe(Guest):
    def main(self):
        gate = self.kernel.cpu.gate
        sock, seq = gate._endpoint.socket, gate._seq
        {attack}
        while True:
            sock.recv()
"""

ATTACKS = {
    "garbage": "sock.send(b'\\xc1 not msgpack')",
    "empty": "sock.send(b'')",
    "a map": "sock.send(pack({1: 2}))",
    "oversized": "sock.send(bytes(20_000))",
    "huge": "sock.send(bytes(64 << 20))",
    "many frames": "sock.send_multipart([b'x'] * 3000)",
    "a replay": "sock.send(pack([seq, 0, 17, 0, 0, 0, 0, 0, 0]))",
    "a skipped number": "sock.send(pack([seq + 2, 0, 17, 0, 0, 0, 0, 0, 0]))",
    "two requests at once": (
        "[sock.send(pack([seq + i, 0, 29, 1, 0, 0, 0, 0, gate.mailbox.counter(0)])) for i in (1, 2)]"
    ),
    "another vCPU": "sock.send(pack([seq + 1, 7, 17, 0, 0, 0, 0, 0, 0]))",
    "an unknown request": "sock.send(pack([seq + 1, 0, -99, 0, 0, 0, 0, 0, 0]))",
    "an irq that is not its own": "sock.send(pack([3]))",
    "registers nobody asked for": "sock.send(pack([seq + 1, 0, -4, b'', 0, 0, 0, 0, 0]))",
    "a second START": "sock.send(pack([seq + 1, 0, -1, 0, 0, 0, 0, 0, 0]))",
}


@pytest.mark.timeout(300)
def test_a_process_that_breaks_the_protocol_ends_alone(clean_machine: Machine, tmp_path: Path) -> None:
    machine = clean_machine
    for number, attack in enumerate(ATTACKS.values()):
        created = machine.guest(
            tmp_path, PREFACE.replace("{attack}", attack), name=f"a{number}", extra='on_crash = "destroy"'
        )
        assert created.returncode == 0, created.stderr
    wait_until(lambda: set(machine.domains()) == {"Domain-0"}, 60, "the end of every attacker")
    hello = machine.guest(
        tmp_path, 'class Probe(Guest):\n    def main(self):\n        print("alive")\n', "-c", name="b"
    )
    assert "alive" in hello.stdout
    log = machine.xenctl("dmesg").stdout
    assert log.count("protocol error") == len(ATTACKS)
    assert "hypervisor bug" not in log
