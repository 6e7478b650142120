"""A guest that does nothing, and can tell what memory that takes: it imports no driver, and nothing that it does not need.

Loaded by path in a domain process, like guests.py.
"""

from __future__ import annotations

import json
from pathlib import Path

from domains.kernel.guest import Guest


class Idle(Guest):
    """Waits; each line on its console has it tell of its process's memory, which nobody else may read."""

    def main(self) -> None:
        """Tells its memory whenever a line comes."""
        print("ready")
        while True:
            self.kernel.console.readline()
            print(json.dumps(Path("/proc/self/smaps_rollup").read_text()))
