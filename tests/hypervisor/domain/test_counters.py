"""What the core counts can be read: by debug key 'p', and by XEN_SYSCTL_perfc_op as Xen's tools read it."""

from __future__ import annotations

from pathlib import Path

from hypervisor.machine.busiest import Busiest
from tests.machines import Machine, wait_until


def test_what_was_counted_is_told(clean_machine: Machine, tmp_path: Path) -> None:
    body = "class Probe(Guest):\n    def main(self):\n        self.kernel.cpu.crash('enough')\n"
    assert clean_machine.guest(tmp_path, body, extra='on_crash = "destroy"').returncode == 0
    info = clean_machine.json("info")
    assert info["core_longest_busy_ms"] > 0
    assert info["core_longest_busy_with"]
    assert "None" not in info["core_longest_busy_with"]
    assert clean_machine.xenctl("debug-keys", "p").returncode == 0
    log = clean_machine.xenctl("dmesg").stdout
    assert "domain crashes: 1\n" in log
    assert "hypervisor bugs: 0\n" in log
    assert "hypercall domctl: " in log


def test_the_busiest_lap_is_the_one_that_took_most_time() -> None:
    busiest = Busiest()
    for name, rounds in (("short", 1_000), ("long", 400_000), ("short again", 1_000)):
        sum(range(rounds))
        busiest.lap(name, rounds)
    assert busiest.what == "long 400000"
    assert busiest.us > 0


BUSY = """
class Probe(Guest):
    def main(self):
        kernel = self.kernel
        pages = [kernel.memory.alloc_page() for _ in range(64)]
        for _ in range(20):
            for va in [kernel.memory.map_own(page.mfn) for page in pages]:
                kernel.memory.unmap(va)
"""


def test_nothing_that_guests_ask_for_holds_the_core_long(clean_machine: Machine, tmp_path: Path) -> None:
    """Domains come, change their page tables, try what is forbidden, and go. In CPU time, and with room for a slow host."""
    hostile = 'kernel = "python:domains.guests.hostile:Hostile"\nmemory = 16\n'
    for turn in range(2):
        assert clean_machine.guest(tmp_path, BUSY, name=f"busy{turn}").returncode == 0
        assert clean_machine.create(tmp_path, f'name = "hostile{turn}"\n{hostile}').returncode == 0
    wait_until(lambda: set(clean_machine.domains()) == {"Domain-0"}, 60, "the guests' end")
    info = clean_machine.json("info")
    assert info["core_longest_busy_ms"] < 250, info["core_longest_busy_with"]
