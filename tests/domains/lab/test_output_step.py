"""xenctl lab NAME --step, on a real terminal: each key does what the help says, and the terminal is as it was afterwards."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import termios
import time
from collections.abc import Iterator
from select import select

import pytest

from domains.lab.output.stepper import HELP
from tests.machines import XENCTL

SECONDS = 30


class Terminal:
    """The command on a terminal of its own; `screen`: what it has drawn since the last key."""

    def __init__(self) -> None:
        self.end, theirs = pty.openpty()
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
        words = [*XENCTL, "lab", "page-fault", "--step"]
        self.process = subprocess.Popen(
            words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )

    def wait_for(self, wanted: str) -> str:
        """Until this is drawn."""
        deadline, screen = time.monotonic() + SECONDS, ""
        while wanted not in screen:
            assert select([self.end], [], [], max(0.0, deadline - time.monotonic()))[0], screen
            screen += re.sub(
                r"\x1b\[[0-9;?]*[a-zA-Z]", "", os.read(self.end, 1 << 16).decode(errors="replace")
            )
        return screen

    def press(self, key: str, wanted: str) -> str:
        """A key; the screen that is drawn then, which has this text."""
        os.write(self.end, key.encode())
        screen = self.wait_for(HELP)
        assert wanted in screen
        return screen


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.end)
        os.close(terminal.theirs)


def test_keys(terminal: Terminal) -> None:
    assert "step 1 of" in terminal.wait_for(HELP)
    terminal.press(" ", "step 2 of")
    terminal.press("\r", "step 3 of")
    terminal.press("b", "step 2 of")
    terminal.press("4", "step 1 of")
    for exit in ("guest's own fault", "trap mov from cr2", "traced store"):
        drawn = terminal.press("n", HELP)
        assert re.search(rf"> +\d+ +monitor +{exit}", drawn)
    assert re.search(r"guest L1\[16\] +0x\w+ P RW US +was 0", drawn)
    terminal.press("\t", "step 1 of")
    terminal.press("1", "step 2 of")
    os.write(terminal.end, b"q")
    assert terminal.process.wait(SECONDS) == 0
    assert termios.tcgetattr(terminal.theirs) == terminal.before
