"""What the host's disk would make the back end wait for, done by a thread of one device: the loop goes on meanwhile.

    loop    submit(work, done) ─► queue ─► thread: work() ─► eventfd ─► loop: done(the OSError, or None)

One thread a device, made when there is first something for it: a disk that stands still holds up its own device alone. It
touches the image's descriptor and the views that `work` holds, and nothing else. Invariant: after `close` no work is under way,
and none is begun; so the views, which are a front's pages, are let go of later.
"""

import os
import signal
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Protocol

Work = Callable[[], None]
Done = Callable[[OSError | None], None]


class Watcher(Protocol):
    """What calls back when a descriptor is ready: Dom0's kernel."""

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Has `callback` called whenever the descriptor can be read."""

    def remove_reader(self, fd: int) -> None:
        """Ends add_reader."""


class Aside:
    """One device's. Its methods are the loop's to call."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._thread: Thread | None = None
        self._todo: SimpleQueue[tuple[Work, Done] | None] = SimpleQueue()
        self._finished: deque[tuple[Done, OSError | None]] = deque()
        self._given_up = False

    def submit(self, work: Work, done: Done) -> None:
        """Have the thread do `work`, after what it was given before; `done` is called from the loop."""
        if self._thread is None:
            self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._watcher.add_reader(self._event, self._collect)
            self._thread = Thread(target=self._run, name="disk", daemon=True)
            self._thread.start()
        self._todo.put((work, done))

    def close(self) -> None:
        """Wait for what is under way, and forget the rest: nothing of it is told any more."""
        if self._thread is None:
            return
        self._given_up = True
        self._todo.put(None)
        self._thread.join()
        self._thread = None
        self._watcher.remove_reader(self._event)
        os.close(self._event)
        self._finished.clear()

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the guest's vCPU
        while (given := self._todo.get()) is not None:
            work, done = given
            if self._given_up:
                continue
            error = None
            try:
                work()
            except OSError as refused:
                error = refused
            self._finished.append((done, error))
            os.eventfd_write(self._event, 1)

    def _collect(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._event)
        while self._finished:
            done, error = self._finished.popleft()
            done(error)
