"""The kernel under test does the same on all systems: its processes end with the same sums, and leave the same memory."""

from functools import cache

import pytest

from domains.lab.compare import SYSTEMS, digest

PROGRAMS = ("work", "work")


@cache
def end_of(name: str) -> tuple[int, str]:
    """The kernel's result, and a digest of its memory."""
    system = SYSTEMS[name][1]()
    return system.run(PROGRAMS), digest(system)


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name not in ("native", "xen")])
def test_it_ends_as_on_bare_hardware(name: str) -> None:
    assert end_of(name) == end_of("native")
