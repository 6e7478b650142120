"""What a head and its agents do, a line each with the clock: seconds of CLOCK_BOOTTIME, which goes on while a host sleeps."""

from __future__ import annotations

import re
import sys
import time
from typing import Final

from domains.xenctl.output import printable

CLOCK: Final = re.compile(r"\d+\.\d{6} ")


def without_clock(line: str) -> str:
    """What a line of a log says, without its time."""
    return CLOCK.sub("", line, count=1)


def boottime() -> int:
    """ns."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def note(text: str, now: int | None = None) -> None:
    """A line in the log, which standard error is."""
    at = boottime() if now is None else now
    print(f"{at / 1e9:.6f} {printable(text)}", file=sys.stderr, flush=True)
