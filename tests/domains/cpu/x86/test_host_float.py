"""Sums, differences, products and quotients by the host's instructions are bit for bit those of the library's functions, and they
gather the same exceptions: for random operands, and for each pair out of those at which something changes.

Negative control: where the largest exponent is taken for one of a normal number, overflows are missing.
"""

import ctypes
import itertools
import random
import struct
from collections.abc import Callable

import pytest

from domains.cpu.x86.emulator import host_float
from domains.cpu.x86.emulator.host_float import FLAGS, FUNCTIONS, INEXACT, ROUNDING, WIDTHS, HostFloat, Width
from domains.cpu.x86.emulator.interpose import Interposer
from domains.cpu.x86.emulator.unicorn_library import exported

STATUS_BYTES = 16
OVERFLOW = 8
PAIRS = 3_000
Operation = Callable[[int, int, object], int]


class Silent(Interposer):
    """Replaces nothing."""

    def replace(self, name: str, address: int) -> None:
        """The library goes on with its own."""


@pytest.fixture(scope="module")
def ours() -> HostFloat:
    return HostFloat(Silent())


def width_of(name: str) -> Width:
    return next(width for width in WIDTHS if name.startswith(width.name))


def operation(width: Width, address: int) -> Operation:
    number = ctypes.c_uint64 if width.name == "float64" else ctypes.c_uint32
    return ctypes.CFUNCTYPE(number, number, number, ctypes.c_void_p)(address)


def outcome(do: Operation, a: int, b: int, flags: int, rounding: int) -> tuple[int, int]:
    """The result's bits, and the exceptions gathered."""
    status = (ctypes.c_uint8 * STATUS_BYTES)()
    status[ROUNDING], status[FLAGS] = rounding, flags
    return do(a, b, status), status[FLAGS]


def edges(width: Width) -> list[int]:
    """Numbers about which something changes, of both signs: zeros, the least and the largest of each kind, NaNs."""
    top = width.last
    exponents = (0, 1, 2, top // 2 - 1, top // 2, top - 2, top - 1, top)
    fractions = (0, 1, (1 << width.exponent_at - 1), (1 << width.exponent_at) - 1)
    sign = (top + 1) << width.exponent_at
    numbers = [e << width.exponent_at | f for e in exponents for f in fractions]
    return numbers + [sign | n for n in numbers]


def differ(name: str, ours: HostFloat, draw: random.Random) -> list[tuple[int, ...]]:
    """Operands, flags and rounding for which the two are not the same."""
    width = width_of(name)
    bits = width.exponent_at + width.last.bit_length() + 1
    library, host = operation(width, exported(name)), operation(width, ours.address(name))
    pairs = list(itertools.product(edges(width), repeat=2))
    pairs += [(draw.getrandbits(bits), draw.getrandbits(bits)) for _ in range(PAIRS)]
    near = width.last // 2 << width.exponent_at
    pairs += [
        (near ^ draw.getrandbits(width.exponent_at + 3), near ^ draw.getrandbits(width.exponent_at + 3))
        for _ in range(PAIRS)
    ]
    return [
        (a, b, flags, rounding)
        for a, b in pairs
        for flags, rounding in ((INEXACT, 0), (INEXACT | OVERFLOW, 0), (0, 0), (INEXACT, 1 + (a & 1)))
        if outcome(library, a, b, flags, rounding) != outcome(host, a, b, flags, rounding)
    ]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bit_for_bit_as_the_library(name: str, ours: HostFloat, pytestconfig: pytest.Config) -> None:
    assert differ(name, ours, random.Random(pytestconfig.option.seed)) == []


def test_control_a_wrong_comparison_is_seen(
    monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    instructions = host_float._exponent

    def lets_through(width: Width, which: tuple[bytes, ...]) -> bytes:
        return instructions(width, which)[:-4] + struct.pack("<I", width.last - 1)

    with monkeypatch.context() as patch:
        patch.setattr(host_float, "_exponent", lets_through)
        broken = HostFloat(Silent())
    assert differ("float64_mul_x86_64", broken, random.Random(pytestconfig.option.seed))
