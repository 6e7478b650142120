"""`xenctl top`: what xentop shows, as text again and again, as data, and on a terminal's screen with keys."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import termios
from pathlib import Path

from domains.xenctl.top_look import WIDTHS
from tests.domains.xenctl.commands import succeeds, xenctl
from tests.machines import XENCTL, Machine, wait_until

WORKING = """
from drivers.block.front import BlockFront
from drivers.net.front import NetFront

class Probe(Guest):
    def main(self) -> None:
        disk = BlockFront(self.kernel, "device/vbd/51712")
        disk.connect()
        disk.read(0, 8)
        disk.write(8, bytes(2 * 512))
        interface = NetFront(self.kernel, "device/vif/0", lambda packet: None)
        interface.connect()
        interface.send(b"\\xff" * 6 + bytes(6) + b"\\x88\\xb5" + bytes(1386))
        interface.send(b"\\xff" * 6 + bytes(6) + b"\\x88\\xb5" + bytes(1386))
        print("done")
        while True:
            self.kernel.sleep(1)
"""


def test_what_goes_through_devices_is_counted_as_xentop_counts_it(
    shared_machine: Machine, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    devices = f'disk = ["{image},,xvda"]\nvif = [""]'
    made = shared_machine.guest(tmp_path, WORKING, name="works", extra=devices)
    assert made.returncode == 0, made.stderr
    wait_until(lambda: shared_machine.json("top")[1]["NETTX(k)"])
    dom0, used = shared_machine.json("top")
    assert (dom0["NAME"], used["NAME"]) == ("Domain-0", "works")
    assert (used["VBDS"], used["VBD_RD"], used["VBD_RSECT"]) == (1, 1, 8)
    assert (used["VBD_WR"], used["VBD_WSECT"]) == (1, 2)
    assert (used["NETS"], used["NETTX(k)"], used["NETRX(k)"]) == (1, 2, 0)
    assert used["MEM(k)"] == 8 * 1024
    shared_machine.destroy("works")


def test_batches_are_xentops_tables_one_after_the_other(shared_machine: Machine) -> None:
    lines = succeeds(shared_machine, "top", "-b", "-i", "2", "-d", "0.1").splitlines()
    assert [lines[0].split(), lines[2].split()] == [list(WIDTHS), list(WIDTHS)]
    assert [line.split()[0] for line in lines[1::2]] == ["Domain-0", "Domain-0"]
    assert lines[1].split()[1] == "-----r"
    assert re.fullmatch(r"\d+\.\d", lines[3].split()[3])
    assert len(lines) == 4
    assert xenctl(shared_machine, "top", "-d", "0").code == 2


class Terminal:
    """A command on a terminal of a size."""

    def __init__(self, machine: Machine, columns: int, *words: str) -> None:
        self.master, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (12, columns))
        self.before = termios.tcgetattr(terminal)
        environment = {**machine.environment, "TERM": "xterm", "NO_COLOR": "1"}
        for fixed in ("COLUMNS", "LINES"):
            environment.pop(fixed, None)
        self.process = subprocess.Popen(
            [*XENCTL, *words], stdin=terminal, stdout=terminal, stderr=terminal, env=environment
        )
        self.terminal = terminal
        os.set_blocking(self.master, False)
        self.text = ""

    def shows(self, text: str) -> bool:
        """Whether it has shown this."""
        try:
            self.text += os.read(self.master, 1 << 16).decode()
        except BlockingIOError:
            return text in self.text
        return text in self.text

    def end(self) -> int:
        """Its exit code; the terminal is as it was."""
        code = self.process.wait(20)
        assert termios.tcgetattr(self.terminal) == self.before
        os.close(self.terminal)
        os.close(self.master)
        return code


def test_a_screen_is_cut_to_the_terminal_sorted_by_keys_and_left_as_it_was(shared_machine: Machine) -> None:
    screen = Terminal(shared_machine, 50, "top", "-d", "0.2")
    wait_until(lambda: screen.shows("Domain-0"))
    os.write(screen.master, b"s")
    wait_until(lambda: screen.shows("by NAME"))
    os.write(screen.master, b"q")
    wait_until(lambda: screen.shows("\x1b[?1049l"))
    assert screen.end() == 0
    plain = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", screen.text.replace("\x1b[H", "\n"))
    assert max(len(line) for line in plain.replace("\r", "").split("\n")) <= 50
    assert not re.search(r"\x1b\[(3[0-7]|9[0-7])m", screen.text)


def test_a_screen_ends_after_so_many_looks(shared_machine: Machine) -> None:
    screen = Terminal(shared_machine, 120, "top", "-d", "0.1", "-i", "2")
    wait_until(lambda: screen.shows("\x1b[?1049l"))
    assert screen.end() == 0
