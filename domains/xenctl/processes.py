"""The host's processes behind domains: children of a machine's supervisor that are named after their
domain.
"""

from __future__ import annotations

import re
from pathlib import Path


def domain_pids(supervisor: int) -> dict[int, int]:
    """Process ids by domain id; what has just ended is left out."""
    pids = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        match = re.match(r"(\d+) \(xeno-dom(\d+)\) \S (\d+)", text)
        if match and int(match.group(3)) == supervisor:
            pids[int(match.group(2))] = int(match.group(1))
    return pids
