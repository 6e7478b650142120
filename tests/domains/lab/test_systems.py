"""The kernel under test does the same on all systems: its processes end with the same sums, and leave the
same memory, disk and packets."""

from functools import cache

import pytest

from domains.lab.compare import SYSTEMS, digest

PROGRAMS = ("work", "work")


@cache
def end_of(name: str) -> tuple[int, str, dict[int, bytes], list[bytes]]:
    """The kernel's result, a digest of its memory, what is on its disk, and what it has sent."""
    system = SYSTEMS[name][1]()
    end = system.run(PROGRAMS), digest(system), system.devices.sectors, system.devices.packets
    system.close()
    return end


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "native"])
def test_it_ends_as_on_bare_hardware(name: str) -> None:
    assert end_of(name) == end_of("native")
