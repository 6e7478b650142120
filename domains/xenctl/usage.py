"""What was typed and cannot be, told as a mistake of usage."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from domains.control.protocol import ControlError, Exit

A = TypeVar("A")


def checked(make: Callable[[], A]) -> A:
    """What `make` makes of what was typed. Raises ControlError(USAGE), with its words, where that raises ValueError."""
    try:
        return make()
    except ValueError as error:
        raise ControlError(Exit.USAGE, str(error)) from None
