"""A machine of one command's own: it has a name that nobody else uses, and it ends when the command does.

The supervisor is the command's child in a session of its own, so that a Ctrl-C reaches the command alone. If
the command is killed, Linux sends the supervisor SIGTERM (PR_SET_PDEATHSIG), which ends the machine as ever.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Final, NoReturn

from domains.control.client import ControlClient
from domains.control.protocol import ControlError, Exit, MachineEnded
from domains.xenctl.folder import folder_of
from domains.xenctl.launch import Hardware, last_words, launch, within
from domains.xenctl.machine import START_TIMEOUT, STOP_TIMEOUT, reach

PR_SET_PDEATHSIG: Final = 1


class PrivateMachine:
    """`with PrivateMachine(prefix, hardware) as client:` starts it, and at the end nothing of it is left.

    `ended` becomes readable when the machine has died of itself; `why` then tells the reason.
    """

    def __init__(
        self,
        prefix: str,
        hardware: Hardware,
        deadline: float | None = None,
        *,
        exactly: bool = False,
    ) -> None:
        """`prefix` begins its name, or is `exactly` its name; by `deadline` on the monotonic clock it must be up."""
        self.name = prefix if exactly else f"{prefix}-{os.getpid()}-{os.urandom(3).hex()}"
        self.folder = folder_of(self.name)
        self.ended = -1
        self._hardware = hardware
        self._deadline = deadline
        self._supervisor = 0
        self._log = -1
        self._client: ControlClient | None = None

    def start(self) -> None:
        """Start it, unless it runs; returns when Dom0 can be asked. Raises ControlError."""
        if self._supervisor:
            return
        try:
            born = launch(self.name, self._hardware, self._fork)
            if born is None:
                raise ControlError(Exit.FAILURE, f"machine '{self.name}' is running already")
            self._log, self.ended = born
            self._client = self._reach()
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> ControlClient:
        """A client of the machine, which is started. Raises ControlError."""
        self.start()
        assert self._client is not None
        return self._client

    def __exit__(self, *exc: object) -> None:
        self.end()

    def has_died(self) -> bool:
        """Whether the machine has ended of itself."""
        return within(0, self.ended)

    def why(self) -> str:
        """The last that the machine's processes said before they died, once all of them have."""
        within(STOP_TIMEOUT, self.ended)
        return last_words(self._log)

    def end(self, patience: float = STOP_TIMEOUT) -> None:
        """End the machine with everything in it; returns when nothing of it is left. After `patience` seconds it is killed.
        Idempotent.
        """
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._supervisor:
            os.kill(self._supervisor, signal.SIGTERM)
            if not within(patience, self.ended):
                os.kill(self._supervisor, signal.SIGKILL)  # its core then ends the machine
            os.waitpid(self._supervisor, 0)
            self._supervisor = 0
        if self._log >= 0:  # the folder is this machine's, and not that of another one which has the name
            shutil.rmtree(self.folder, ignore_errors=True)
        for fd in (self.ended, self._log):
            if fd >= 0:
                os.close(fd)
        self.ended = self._log = -1

    def _fork(self, body: Callable[[], None]) -> int:
        """What ends the supervisor is held back until it can heed it: Python forgets signals that come to a
        process while it is being forked.
        """
        parent = os.getpid()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            pid = os.fork()
            if pid == 0:
                self._attached(body, parent, before)
            self._supervisor = pid
            self.ended = os.pidfd_open(pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self.ended

    def _attached(self, body: Callable[[], None], parent: int, mask: set[int | signal.Signals]) -> NoReturn:
        """The supervisor's process, which does not outlive `parent`."""
        status = 1
        try:
            import ctypes

            os.setsid()
            signal.signal(signal.SIGTERM, lambda *_: self._abort())
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if os.getppid() == parent:
                body()
                status = 0
            else:
                self._abort()
        except BaseException:  # noqa: BLE001 - the outermost frame of a process: report, then leave
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _abort(self) -> NoReturn:
        """Ended before the supervisor has begun its work."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os._exit(1)

    def _reach(self) -> ControlClient:
        limit = START_TIMEOUT
        if self._deadline is not None:
            limit = min(limit, self._deadline - time.monotonic())
        try:
            client = reach(self.folder, lambda: not self.has_died(), limit)
        except MachineEnded:
            raise ControlError(Exit.FAILURE, f"the machine did not start: {self.why()}") from None
        if client is None:
            raise ControlError(Exit.TIMED_OUT, f"the machine did not start within {max(limit, 0):.1f} s")
        return client
