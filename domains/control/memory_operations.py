"""What Dom0's toolstack can be asked about domains' memory: the records of xl's mem-set and mem-max. A part of `operations.py`,
which has the table of all; and how xl writes amounts of memory.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from domains.control.arguments import Arguments, Count, DomIdNumber
from domains.control.description import MAX_MEMORY, DomainText
from domains.control.records import Range, Record

LEAST_KIB: Final = 1024
"""No domain has less memory than a MiB."""
AMOUNT: Final = re.compile(r"\s*([0-9]{1,18})([bkmgt]?)", re.IGNORECASE)
SHIFTS: Final = {"k": 0, "": 10, "m": 10, "g": 20, "t": 30}

Kib = Annotated[int, Range(LEAST_KIB, MAX_MEMORY << 10)]


class MemoryLimits(Record):
    """What a domain has been told of its memory: what to have, and what it may ever have; and what it has now. In KiB."""

    domid: DomIdNumber
    target_kib: Count
    static_max_kib: Count
    memory_kib: Count


class MemSet(Arguments[MemoryLimits]):
    """Tell a domain to have so much memory: it gives back what is more, or takes what is missing. It may not take more."""

    domain: DomainText
    kib: Kib


class MemMax(Arguments[MemoryLimits]):
    """Say how much memory a domain may ever be told to have."""

    domain: DomainText
    kib: Kib


MEMORY_OPERATIONS: Final[dict[str, type[Arguments[Any]]]] = {"mem-set": MemSet, "mem-max": MemMax}
"""These operations by their names."""


def kib_of(text: str) -> int:
    """An amount of memory as xl reads it (parse_mem_size_kb): a number of MiB, or of what the letter behind it says: b, k, m, g,
    t. Raises ValueError for another text, and for an amount that no domain can have.
    """
    found = AMOUNT.fullmatch(text)
    if found is None:
        raise ValueError(
            f"invalid memory size: {text}; write MiB, or a number with b, k, m, g or t, such as 1g"
        )
    number, unit = int(found[1]), found[2].lower()
    kib = number >> 10 if unit == "b" else number << SHIFTS[unit]
    if not LEAST_KIB <= kib <= MAX_MEMORY << 10:
        raise ValueError(
            f"invalid memory size: {text}; a domain has 1 MiB at least, and {MAX_MEMORY} at most"
        )
    return kib
