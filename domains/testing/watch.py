"""What a test must hear of at once, wherever it is: a guest that has died, a machine that has.

The listener's thread calls `ring`. The thread that runs the test, if it is Python's main thread, gets a signal whose handler
raises there what happened: in a sleep, in a read from a socket, in the test's own code. While this package's own code runs, the
handler does not raise, and that code looks itself. Elsewhere than in the main thread a test hears of it with its next call, or at
its end.
"""

from __future__ import annotations

import signal
import threading
from typing import Any, Final

SIGNAL: Final = signal.SIGURG
"""One that has no effect if nobody handles it."""


class GuestDied(BaseException):
    """A guest has ended in a way that its test does not allow, or its machine has; the message says why. No `except Exception` of
    the test holds it up.
    """


class Watch:
    """One per pytest process: the machines that there are, and what has happened to them during the test that runs."""

    def __init__(self) -> None:
        self.machines: list[Any] = []
        self.keepers: dict[int | None, Any] = {}
        """By the seed that the processes' hashes are of."""
        self.failed = False
        """Whether a phase of the test that runs, or has run last, failed."""
        self._bad_news: list[str] = []
        self._raising = False
        self._deferred = 0
        self._before: Any = None

    def ring(self, news: str) -> None:
        """Called in any thread: the test that runs is to fail."""
        self._bad_news.append(news)
        if self._raising:
            signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL)

    @property
    def has_news(self) -> bool:
        """Whether something has happened that has not been told."""
        return bool(self._bad_news)

    def begin(self) -> None:
        """A test's body begins."""
        self.check()
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(SIGNAL, self._on_signal)
            self._raising = True

    def end(self) -> None:
        """It has ended. From now on nothing is raised."""
        if self._raising:
            self._raising = False
            signal.signal(SIGNAL, self._before)

    def forget(self) -> None:
        """What has happened is not the next test's affair."""
        self._bad_news.clear()
        self.failed = False

    def check(self) -> None:
        """Raises GuestDied if something has happened that has not been told."""
        __tracebackhide__ = True
        if self._bad_news:
            news = "\n".join(self._bad_news)
            self._bad_news.clear()
            raise GuestDied(news)

    def deferred(self) -> Deferred:
        """In this block nothing is raised by the signal, but at its end."""
        return Deferred(self)

    def defer(self, change: int) -> int:
        """One block more, or less, in which nothing is raised; how many there are."""
        self._deferred += change
        return self._deferred

    def settle(self) -> None:
        """Hear all that has happened up to now. Raises GuestDied."""
        __tracebackhide__ = True
        for machine in list(self.machines):
            machine.settle()
        self.check()

    def close(self) -> None:
        """End all machines, and the processes that have them."""
        try:
            for machine in list(self.machines):
                machine.close()
        finally:
            for keeper in self.keepers.values():
                keeper.close()
            self.keepers.clear()

    def _on_signal(self, _number: int, _frame: object) -> None:
        __tracebackhide__ = True
        if self._raising and not self._deferred:
            self.check()


class Deferred:
    """What `Watch.deferred` returns. A class, for a generator's frames would stand in each traceback."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __enter__(self) -> None:
        self._watch.defer(1)

    def __exit__(self, kind: object, *_: object) -> None:
        __tracebackhide__ = True
        if not self._watch.defer(-1) and kind is None:
            self._watch.check()
