"""A guest's events that its process sends without waiting arrive, and nobody ends by one that cannot be sent.

Control: with a refusal that ends the domain, as other posts' does, the last lines of the guest do not come: a toolstack may close
a domain's ports at any time (EVTCHNOP_reset), which no process can know.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.machines import Machine

GUEST = """
import struct
from hypervisor.public.errno import XenError
from hypervisor.wire.messages import pack

class Probe(Guest):
    def main(self):
        kernel, events = self.kernel, self.kernel.events
        posts = []
        queue = kernel.cpu.gate.posts
        plain = queue.send_at_once
        queue.send_at_once = lambda *words: (posts.append(words), plain(*words))
        here = events.alloc_unbound(kernel.domid)
        there = events.bind_interdomain(kernel.domid, here)
        came = []
        events.bind(here, lambda: came.append(1))
        for number in range(100):
            before = len(came)
            events.notify(there)
            while len(came) == before:
                kernel.sleep(0.001)
        print("came", len(came), "posted", len(posts))
        events.close(there)
        try:
            events.notify(there)
        except XenError as error:
            print("closed", error.errno.name)
        for port in (there, 0, 4096, 1 << 40, (1 << 64) - 1):
            kernel.cpu.gate._endpoint.send(pack([0, struct.pack("<QQ", 4, port)]))
        kernel.hypercalls.hypercall_sched_op(0)
        print("alive")
"""


def test_events_are_sent_and_refused_as_ever(machine: Machine, tmp_path: Path) -> None:
    said = machine.guest(tmp_path, GUEST, "-c", name="probe").stdout
    found = re.search(r"came 100 posted (\d+)", said)
    assert found, said
    assert int(found[1]) >= 99
    assert "closed EINVAL" in said
    assert "alive" in said
    assert "hypervisor bug" not in machine.xenctl("dmesg").stdout
