"""Operations that take more than one step, side by side in Dom0's one loop.

An operation is a generator. It works without waiting, and where it must wait it yields `Until(condition,
…)`: the loop goes on with everything else, and the operation continues when the condition holds. Conditions
are looked at whenever something has happened that may have changed one (`poke`), never by the clock; a
time-out is raised inside the operation at the place where it waits, so that it can undo what it did.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from domains.control.protocol import Exit
from domains.dom0.toolstack.errors import ToolstackError
from domains.kernel.kernel import Kernel
from domains.kernel.loop import Timer


@dataclass(frozen=True, slots=True)
class Until:
    """Wait for `condition`; after `timeout` seconds (None: never) a ToolstackError says that `what` did not
    happen.
    """

    condition: Callable[[], bool]
    what: str
    timeout: float | None = None


Operation = Generator[Until, None, Any]


class Operations:
    """All operations in progress."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._waiting: dict[_Waiting, None] = {}
        self._poked = False

    def start(
        self, operation: Operation, done: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> None:
        """Begin; `done(result)` or `failed(error)` is called when it ends, perhaps at once."""
        self._step(_Waiting(operation, done, failed), None)

    def poke(self) -> None:
        """Something happened: look at all conditions, from the loop."""
        if self._waiting and not self._poked:
            self._poked = True
            self._kernel.call_soon(self._look)

    def _look(self) -> None:
        self._poked = False
        for waiting in list(self._waiting):
            if waiting in self._waiting and waiting.condition():
                self._step(waiting, None)

    def _step(self, waiting: _Waiting, error: ToolstackError | None) -> None:
        """Continue an operation up to its next wait or its end."""
        self._waiting.pop(waiting, None)
        waiting.stop_timer()
        try:
            until = waiting.operation.throw(error) if error else next(waiting.operation)
            while until.condition():
                until = next(waiting.operation)
        except StopIteration as end:
            waiting.done(end.value)
        except Exception as failure:  # noqa: BLE001 - whatever it is, it ends this operation alone
            waiting.failed(failure)
        else:
            waiting.condition = until.condition
            self._waiting[waiting] = None
            if until.timeout is not None:
                late = ToolstackError(f"{until.what} within {until.timeout:g} s", Exit.TIMED_OUT)
                waiting.timer = self._kernel.call_later(until.timeout, lambda: self._step(waiting, late))


class _Waiting:
    """One operation and what it waits for."""

    def __init__(
        self, operation: Operation, done: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> None:
        self.operation = operation
        self.done = done
        self.failed = failed
        self.condition: Callable[[], bool] = lambda: False
        self.timer: Timer | None = None

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
