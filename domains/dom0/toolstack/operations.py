"""Operations that take more than one step, side by side in Dom0's one loop.

An operation is a task of Dom0's kernel (domains/kernel/tasks.py): where it must wait, it says for what, and the loop goes on
with everything else. A time-out is raised inside the operation at the place where it waits, so that it can undo what
it did.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from domains.control.protocol import Exit
from domains.dom0.toolstack.errors import ToolstackError
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Signal, Task

Operation = Task[Any]


class Operations:
    """Starts operations, and lets them wait."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.under_way = 0
        """How many have begun and not ended."""

    def start(
        self, operation: Operation, done: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> None:
        """Begin with the loop's next turn; `done(result)` or `failed(error)` is called when it ends."""
        self.under_way += 1

        def finished(result: Any) -> None:
            self.under_way -= 1
            done(result)

        def broken(error: Exception) -> None:
            self.under_way -= 1
            failed(error)

        self.kernel.spawn(operation, finished, broken)

    def until(
        self, condition: Callable[[], bool], changed: Signal, what: str, timeout: float | None = None
    ) -> Task[None]:
        """Wait until `condition()`, which is looked at whenever `changed` is sent. After `timeout` seconds (None:
        never) a ToolstackError says that `what` did not happen.
        """
        if not (yield from self.kernel.until(condition, changed, timeout=timeout)):
            raise ToolstackError(f"{what} within {timeout:g} s", Exit.TIMED_OUT)
