"""What a domain *process* may do to the core by its connection: end its own domain, and nothing else (docs/trust.md).

Each guest bends the messages of its own gate; the machine goes on, says why in its log, and everything of that domain comes back.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.machines import Machine, wait_until

PREFACE = """
import select, struct
from hypervisor.wire.messages import pack


def flood(octets, times=1):
    # Write to the process's connection, no messages, for as long as anybody takes it.
    sock = Probe.connection
    for _ in range(times):
        rest = memoryview(octets)
        while rest:
            select.select([], [sock], [])
            rest = rest[sock.send(rest):]


class Probe(Guest):
    def main(self):
        gate = self.kernel.cpu.gate
        Probe.connection = gate._endpoint.socket
        sock, seq = gate._endpoint, gate._ports[0].seq
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
    "many frames": "flood(b'\\x01\\x01x' * 3000)",
    "a replay": "sock.send(pack([seq, 0, 17, 0, 0, 0, 0, 0, 0]))",
    "a skipped number": "sock.send(pack([seq + 2, 0, 17, 0, 0, 0, 0, 0, 0]))",
    "two requests at once": (
        "[sock.send(pack([seq + i, 0, 29, 1, 0, 0, 0, 0, gate.mailbox.counter(0)])) for i in (1, 2)]"
    ),
    "another vCPU": "sock.send(pack([seq + 1, 7, 17, 0, 0, 0, 0, 0, 0]))",
    "an unknown request": "sock.send(pack([seq + 1, 0, -99, 0, 0, 0, 0, 0, 0]))",
    "an irq that is not its own": "sock.send(pack([3]))",
    "registers nobody asked for": "sock.send(pack([seq + 1, 0, -4, b'', 0, 0, 0, 0, 0]))",
    "a negative argument": "sock.send(pack([seq + 1, 0, 14, 0, 1 << 63, -1, 0, 0, 0]))",
    "a negative address of a store": "sock.send(pack([seq + 1, 0, -5, -4096, 8, 0, 0, 0, 0]))",
    "a negative frame": "sock.send(pack([seq + 1, 0, -6, -1, 0, 0, 0, 0, 0]))",
    "a negative vCPU": "sock.send(pack([seq + 1, -1, 17, 0, 0, 0, 0, 0, 0]))",
    "a negative irq": "sock.send(pack([-1]))",
    "events seen below zero": "sock.send(pack([seq + 1, 0, 17, 0, 0, 0, 0, 0, -1]))",
    "a million empty frames": "flood(b'\\x01\\0' * 1_000_000)",
    "a message without an end": "flood(b'\\x03' + struct.pack('>Q', 16000) + bytes(16000), 1 << 14)",
    "a frame larger than any message": "flood(b'\\x02' + struct.pack('>Q', 1 << 40) + bytes(64 << 20))",
    "heartbeats": "flood(b'\\x04\\x07\\x04PING\\0\\0' * 100_000)",
    "posts of no vCPU": "sock.send(pack([7, bytes(16)]))",
    "posts that are no bytes": "sock.send(pack([0, 16]))",
    "half a post": "sock.send(pack([0, bytes(24)]))",
    "no posts at all": "sock.send(pack([0, b'']))",
    "more posts than a message has": "sock.send(pack([0, bytes(16 * 257)]))",
    "a post in a table that is none": "sock.send(pack([0, struct.pack('<QQ', 1 << 40, 7)]))",
    "a post in the place of a number": "sock.send(pack([seq + 1, 0, 17, 0, 0, 0, 0, bytes(16), 0]))",
    "a post of another's frame": "sock.send(pack([seq + 1, 0, 17, 0, 0, 0, 0, 0, 0, struct.pack('<QQ', 8, 1 << 12 | 7)]))",
    "a post of no kind": "sock.send(pack([0, struct.pack('<QQ', 7, 0)]))",
    "a base pointer that is no table": "sock.send(pack([0, struct.pack('<QQ', 1, 1 << 52)]))",
    "a second START": "sock.send(pack([seq + 1, 0, -1, 0, 0, 0, 0, 0, 0]))",
}


@pytest.mark.timeout(300)
def test_a_process_that_breaks_the_protocol_ends_alone(clean_machine: Machine, tmp_path: Path) -> None:
    machine = clean_machine
    before = peak_of_the_core(machine)
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
    assert peak_of_the_core(machine) - before < 64 << 20


def peak_of_the_core(machine: Machine) -> int:
    """Bytes of memory that the core process has had at most."""
    for pid in machine.pids:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        if status["Name"] == "xeno-core":
            return int(status["VmHWM"].split()[0]) << 10
    raise AssertionError("there is no core")
