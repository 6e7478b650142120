"""What one guest does to Dom0 is felt by that guest alone.

A guest watches its own node many times over and stops reading: the events of one write do not fit into its ring, and
wait there until they are dropped, 20 s later. A Dom0 that serves nobody meanwhile answers after that, so the proof
that it does is that the events are still waiting once everybody else has been answered. (That the events wait at
all is checked first.)
"""

from pathlib import Path

from hypervisor.public.io.xs_wire import XS_CONTROL, XS_READ
from tests.domains.dom0.store_socket import StoreSocket
from tests.machines import Machine, wait_until

WATCHER = """
class Probe(Guest):
    def main(self):
        for _ in range(60):
            self.kernel.xenbus.watch("data", lambda path: None)
        self.kernel.wait(lambda: False)
"""


def used(store: StoreSocket, domid: int, quota: str) -> int:
    """What a domain uses of the store: bytes of memory (events that it has not taken included), watches …"""
    report = store.ask(XS_CONTROL, b"quota", b"%d" % domid).decode()
    rows = dict(line.split(":", 1) for line in report.splitlines() if ":" in line)
    return int(next(value for name, value in rows.items() if name.strip() == quota).split()[0])


def test_a_guest_that_does_not_read_its_ring_stalls_nobody_else(
    shared_machine: Machine, tmp_path: Path
) -> None:
    machine = shared_machine
    assert machine.guest(tmp_path, WATCHER, name="watcher").returncode == 0
    domid = machine.domain("watcher")["domid"]
    with StoreSocket(machine.xenstored_path) as store:
        wait_until(lambda: used(store, domid, "watches") == 60, 20, "its watches")
        assert machine.xenctl("pause", "watcher").returncode == 0
        path = b"/local/domain/%d/data/x" % domid
        idle = used(store, domid, "memory")
        for value in range(3):
            store.write(path, b"%d" % value)
        full = used(store, domid, "memory")
        assert full > idle + 1024, "the events do not wait"
        for _ in range(5):
            assert store.ask(XS_READ, path) == b"2"
            assert "p" in machine.domain("watcher")["state"]
        assert used(store, domid, "memory") == full, "the answers came after the events were dropped"
    assert machine.xenctl("destroy", "watcher").returncode == 0
