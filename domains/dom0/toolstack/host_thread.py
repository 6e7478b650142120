"""Work on the host's files that may take long, done by a thread while Dom0's loop goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Signal, Task
from drivers.block.aside import Aside

T = TypeVar("T")


class HostThread:
    """One thread, for one thing after the other."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._aside = Aside(kernel)

    def do(self, work: Callable[[], T]) -> Task[T]:
        """Have the thread do something, and wait for it; what it returns. Raises its OSError."""
        results: list[T] = []
        ended: list[OSError | None] = []
        signal = Signal()

        def done(error: OSError | None) -> None:
            ended.append(error)
            signal.send()

        self._aside.submit(lambda: results.append(work()), done)
        yield from self._kernel.until(lambda: bool(ended), signal)
        if (error := ended[0]) is not None:
            raise error
        return results[0]

    def close(self) -> None:
        """Wait for what is under way. Idempotent."""
        self._aside.close()


@contextmanager
def host_thread(kernel: Kernel) -> Iterator[HostThread]:
    """A thread for a block of code."""
    thread = HostThread(kernel)
    try:
        yield thread
    finally:
        thread.close()
