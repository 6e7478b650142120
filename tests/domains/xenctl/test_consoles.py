"""Consoles as a user sees them: from the first byte, for many at once, with input, to the end and its exit
code.
"""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

from tests.machines import XENCTL, Machine, wait_until

ECHO = """
class Probe(Guest):
    def main(self) -> None:
        print("ready")
        while True:
            line = self.kernel.console.readline().strip()
            print("got", line)
            if line == "quit":
                return
"""
TALKER = """
class Probe(Guest):
    def main(self) -> None:
        for number in range(3000):
            print(f"line {number} " + "x" * 60)
"""
CRASHING = """
class Probe(Guest):
    def main(self) -> None:
        print("about to fail")
        raise ValueError("on purpose")
"""


class Follower:
    """A `xenctl console` that runs beside the test."""

    def __init__(self, machine: Machine, *words: str) -> None:
        self.process = subprocess.Popen(
            [*XENCTL, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=machine.environment,
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self.text = b""

    def read(self) -> bytes:
        assert self.process.stdout is not None
        self.text += self.process.stdout.read() or b""
        return self.text

    def expect(self, text: bytes) -> None:
        wait_until(lambda: text in self.read(), 20, f"{text!r} on a console")

    def type(self, text: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def end(self) -> int:
        code = self.process.wait(20)
        self.read()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code


def test_dom0_has_no_console_and_it_is_said_where_its_lines_are(shared_machine: Machine) -> None:
    done = shared_machine.xenctl("console", "Domain-0")
    assert done.returncode == 1
    assert "xenctl dmesg" in done.stderr


WAITING = """
class Probe(Guest):
    def main(self) -> None:
        print("here")
        self.kernel.wait(lambda: False)
"""


def test_a_console_ends_when_its_machine_does(machine: Machine, tmp_path: Path) -> None:
    machine.guest(tmp_path, WAITING)
    following = subprocess.Popen(
        [*XENCTL, "console", "guest"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=machine.environment,
    )
    assert following.stdout is not None
    assert following.stdout.readline().strip() == "here"
    machine.stop()
    _, said = following.communicate(timeout=30)
    assert following.returncode == 1
    assert said == "xenctl: the machine has ended\n"


def test_create_with_console_shows_every_byte_of_a_short_life(
    shared_machine: Machine, tmp_path: Path
) -> None:
    done = shared_machine.guest(tmp_path, TALKER, "-c")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.replace("\r", "").splitlines()
    assert [line.split()[1] for line in lines] == [str(number) for number in range(3000)]


def test_a_crash_on_the_console_is_exit_code_5(shared_machine: Machine, tmp_path: Path) -> None:
    done = shared_machine.guest(tmp_path, CRASHING, "-c")
    assert done.returncode == 5
    assert "about to fail" in done.stdout
    assert "ValueError: on purpose" in done.stdout


def test_who_comes_later_sees_the_beginning_and_all_see_the_same(
    shared_machine: Machine, tmp_path: Path
) -> None:
    shared_machine.guest(tmp_path, ECHO)
    first = Follower(shared_machine, "console", "guest")
    first.expect(b"ready")
    first.type(b"one\n")
    first.expect(b"got one")
    second = Follower(shared_machine, "console", "guest")
    second.expect(b"got one")
    second.type(b"quit\n")
    for follower in (first, second):
        follower.expect(b"got quit")
        assert follower.end() == 0
    assert first.text == second.text


def test_input_from_a_pipe_reaches_the_guest(shared_machine: Machine, tmp_path: Path) -> None:
    shared_machine.guest(tmp_path, ECHO)
    done = shared_machine.xenctl("console", "guest", stdin="hello\nquit\n")
    assert done.returncode == 0
    assert "got hello" in done.stdout


def test_a_viewer_that_goes_away_disturbs_nobody(shared_machine: Machine, tmp_path: Path) -> None:
    shared_machine.guest(tmp_path, ECHO)
    gone, stays = Follower(shared_machine, "console", "guest"), Follower(shared_machine, "console", "guest")
    for follower in (gone, stays):
        follower.expect(b"ready")
    gone.process.kill()
    gone.end()
    stays.type(b"still\nquit\n")
    stays.expect(b"got still")
    assert stays.end() == 0


def test_ctrl_right_bracket_leaves_a_terminal_and_the_domain_goes_on(
    shared_machine: Machine, tmp_path: Path
) -> None:
    shared_machine.guest(tmp_path, ECHO)
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [*XENCTL, "console", "guest"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=shared_machine.environment,
    )
    os.close(terminal)
    os.set_blocking(master, False)
    text = b""

    def shown(wanted: bytes) -> bool:
        nonlocal text
        try:
            text += os.read(master, 4096)
        except BlockingIOError:
            return False
        return wanted in text

    wait_until(lambda: shown(b"ready"), 20, "the prompt")
    os.write(master, b"typed\n")
    wait_until(lambda: shown(b"got typed"), 20, "the echo")
    os.write(master, b"\x1d")
    assert process.wait(10) == 0
    os.close(master)
    assert "guest" in shared_machine.domains()
    shared_machine.xenctl("destroy", "guest")
