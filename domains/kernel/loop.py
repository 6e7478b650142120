"""Timers and ready callbacks of a Python kernel: what `Kernel.wait` runs before it sleeps."""

from __future__ import annotations

from collections.abc import Callable


class Timer:
    """One callback due at `deadline` (system time, nanoseconds)."""

    def __init__(self, deadline: int, callback: Callable[[], None]) -> None:
        self.deadline = deadline
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Never run it; harmless if it has run."""
        self.callback = None
