"""IN above the IOPL is #GP on the bare machine and under hardware assistance; in ring 0 it reads the board's port."""

import pytest

from domains.cpu.x86.registers import EXC_GP
from domains.lab.probes import probe_image, try_probes
from domains.lab.systems.ring0 import Ring0


@pytest.mark.parametrize("name", ["native", "nested", "vtx"])
def test_in_is_refused_outside_ring_0(name: str) -> None:
    trials = try_probes(Ring0(name, probe_image()), (0, 1, 3))
    assert trials["in", 0].value == 0xFF
    assert trials["in", 0].entries["in"] == (name != "native")
    for ring in (1, 3):
        assert (trials["in", ring].vector, trials["in", ring].entries["in"]) == (EXC_GP, 0)
