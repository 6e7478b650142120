"""How a guest tells the code that it ends with: a node of its own part of the store, written before it shuts down.

Xen has no such node; what a domain tells Xen itself is the reason alone (SHUTDOWN_poweroff, SHUTDOWN_crash …).
"""

from __future__ import annotations

from typing import Final

EXIT_CODE_NODE: Final = "data/exit-code"
"""Relative to the guest's part of the store; a number from 0 to LARGEST in decimal."""
LARGEST: Final = 255


def exit_code_of(text: str) -> int | None:
    """The code that the node's value says; None if it says none."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(LARGEST))
    return int(text) if is_number and int(text) <= LARGEST else None
