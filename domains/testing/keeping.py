"""pytest's end of the process that has its machines (keeper.py)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from domains.control.protocol import ControlError, Exit
from domains.xenctl.machine import START_TIMEOUT, STOP_TIMEOUT
from domains.xenctl.seeded import KEY, key_of

MAX_MESSAGE: Final = 1 << 16
ROOT: Final = Path(__file__).resolve().parents[2]
"""Where the packages of the project are."""
SCRIPT: Final = f"import sys; sys.path.append({str(ROOT)!r}); from domains.testing.keeper import main; main"
ANSWER_TIMEOUT: Final = START_TIMEOUT + STOP_TIMEOUT


class KeeperGone(ControlError):
    """The process that keeps machines has ended, and its machines with it (PR_SET_PDEATHSIG)."""

    def __init__(self) -> None:
        super().__init__(Exit.FAILURE, "the process that keeps machines is gone")


class Keeping:
    """The process, begun with this object."""

    def __init__(self, seed: int | None, watched: list[int]) -> None:
        """`seed`: of machines that repeat themselves, None: of others. `watched`: processes by number; when one of them is gone,
        so are the machines.
        """
        self._keeps = False
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(ANSWER_TIMEOUT)
        pidfds = [os.pidfd_open(pid) for pid in watched]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        if seed is not None:
            environment[KEY] = key_of(seed)
        path = [folder or os.getcwd() for folder in sys.path]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"{SCRIPT}({theirs.fileno()}, {pidfds}, {path})"],
                pass_fds=[theirs.fileno(), *pidfds],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        finally:
            theirs.close()
            for pidfd in pidfds:
                os.close(pidfd)

    def ask(self, what: str, value: Any) -> dict[str, Any]:
        """One request and its answer. Raises ControlError."""
        try:
            self._channel.send(json.dumps({what: value}).encode())
            said = self._channel.recv(MAX_MESSAGE)
        except OSError:
            said = b""
        if not said:
            raise KeeperGone
        answer: dict[str, Any] = json.loads(said)
        if "error" in answer:
            raise ControlError(Exit(answer["code"]), answer["error"])
        self._keeps = self._keeps or what == "keep"
        return answer

    def close(self) -> None:
        """End it with all its machines but those that are to stay."""
        self._channel.close()
        if self._keeps:
            self._process.returncode = 0  # it goes on; nobody is to wait for it, or to complain
            return
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(2 * STOP_TIMEOUT)
        self._process.kill()  # its machines then end by PR_SET_PDEATHSIG
        self._process.wait()
