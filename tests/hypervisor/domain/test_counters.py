"""What the core counts can be read: by debug key 'p', and by XEN_SYSCTL_perfc_op as Xen's tools read it."""

from __future__ import annotations

from pathlib import Path

from hypervisor.machine.busiest import Busiest
from tests.machines import Machine


def test_what_was_counted_is_told(clean_machine: Machine, tmp_path: Path) -> None:
    body = "class Probe(Guest):\n    def main(self):\n        self.kernel.cpu.crash('enough')\n"
    assert clean_machine.guest(tmp_path, body, extra='on_crash = "destroy"').returncode == 0
    info = clean_machine.json("info")
    assert info["core_longest_busy_ms"] > 0
    assert info["core_longest_busy_with"]
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
