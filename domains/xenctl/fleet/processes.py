"""Hosts that are processes of this user's: an agent each, on this host, or where the command that the host goes
`through` starts it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from domains.control.protocol import ControlError, Exit
from domains.xenctl.fleet.hosts import Introduction
from domains.xenctl.fleet.journal import without_clock
from domains.xenctl.folder import private_files

AGENT: Final = ("-m", "domains.xenctl.fleet.agent")
PATIENCE: Final = 15.0
"""Seconds that agents have to end."""
LAST_WORDS: Final = 4096


class Processes:
    """As hosts.Hosts."""

    def __init__(self, folder: Path, through: Mapping[str, Sequence[str]]) -> None:
        """`folder`: where agents' logs are; `through`: of each host the words before the agent's command line."""
        self._folder = folder
        self._through = through
        self._agents: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self, introduction: Introduction) -> None:
        """Raises ControlError."""
        host = introduction.host
        words = [*self._through.get(host, ()), sys.executable, *AGENT]
        if shutil.which(words[0]) is None:
            raise ControlError(Exit.FAILURE, f"host {host}: there is no program '{words[0]}' to go through")
        root = str(Path(__file__).parents[3])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
        }
        with private_files(), self._log(host).open("wb") as log:
            agent = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
                cwd="/",
            )
        self._agents[host] = agent
        assert agent.stdin is not None
        with suppress(OSError):  # it has ended, which `ended` tells
            agent.stdin.write(introduction.model_dump_json().encode() + b"\n")
            agent.stdin.flush()

    def ended(self) -> dict[str, str]:
        """With the last line of its log."""
        return {
            host: f"its agent ended with code {agent.returncode}: {self._last_words(host)}"
            for host, agent in self._agents.items()
            if agent.poll() is not None
        }

    def forget(self, host: str) -> None:
        """As Hosts.forget."""
        agent = self._agents.pop(host)
        if agent.stdin is not None:
            agent.stdin.close()

    def end(self) -> None:
        """As Hosts.end."""
        deadline = time.monotonic() + PATIENCE
        for agent in self._agents.values():
            if agent.stdin is not None:
                with suppress(OSError):
                    agent.stdin.close()
        for agent in self._agents.values():
            try:
                agent.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                agent.kill()  # its machine ends with it
                agent.wait()

    def _log(self, host: str) -> Path:
        return self._folder / f"{host}.log"

    def _last_words(self, host: str) -> str:
        with suppress(OSError), self._log(host).open("rb") as file:
            file.seek(max(self._log(host).stat().st_size - LAST_WORDS, 0))
            lines = [
                line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()
            ]
            if lines:
                return without_clock(lines[-1])
        return "it said nothing"
