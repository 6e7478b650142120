"""Sets of a machine's CPUs, as xl reads and writes them: `all`, `0-3,5,^1`, `nodes:0,^2`.

A set is a mask: bit n is CPU n. What a list means depends on how many CPUs the machine has: `all` are those, and numbers beyond
them are left out. A machine here is one NUMA node, number 0. Source: Xen tools/xl/xl_parse.c (parse_cpurange) and xl_utils.c
(print_bitmap).
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from domains.control.records import Length, Record

MAX_CPUS: Final = 64
"""CPUs of a machine."""
MAX_CPU_LIST: Final = 1024
"""Characters of a list."""
PART: Final = re.compile(r"(\^?)(nodes?:)?(?:(all)|([0-9]{1,18})(?:-([0-9]{1,18}))?)", re.ASCII)


def mask_of(text: str, nr_cpus: int = MAX_CPUS) -> int:
    """The CPUs that a list names, of a machine of `nr_cpus`; parts apply from left to right. Raises ValueError."""
    every = (1 << nr_cpus) - 1
    mask = 0
    for part in filter(None, text.split(",")):
        found = PART.fullmatch(part)
        if found is None:
            raise ValueError(f"'{part}' is no range of CPUs; write a number, 0-3, ^1, node:0 or all")
        without, nodes, all_of, first, last = found.groups()
        if without and all_of:
            raise ValueError("'^' and 'all' do not go together")
        low = int(first or 0)
        high = int(last or low)
        if high < low:
            raise ValueError(f"'{part}' ends before it begins")
        if all_of or (nodes and low == 0):
            named = every
        else:
            named = 0 if nodes else every & (every << low) & ~(every << min(high + 1, nr_cpus))
        mask = mask & ~named if without else mask | named
    return mask


def shown(mask: int, nr_cpus: int) -> str:
    """A set as xl prints it: `all`, `none`, or ranges."""
    mask &= (1 << nr_cpus) - 1
    if mask == 0:
        return "none"
    if mask == (1 << nr_cpus) - 1:
        return "all"
    ranges: list[list[int]] = []
    for cpu in numbers(mask):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def numbers(mask: int) -> tuple[int, ...]:
    """The CPUs of a set, in order."""
    return tuple(cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1)


class IsCpuList(Record):
    """The bound of a text that must be a list of CPUs."""

    def check(self, value: str) -> str | None:
        """Why a text is refused, or None."""
        try:
            mask_of(value)
        except ValueError as error:
            return f"is no list of CPUs: {error}"
        return None


CpuList = Annotated[str, Length(MAX_CPU_LIST), IsCpuList()]
"""A list of CPUs as people write it; it is looked at where the machine is known."""
