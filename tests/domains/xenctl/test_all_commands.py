"""Every command of xenctl: it has help with an example that is a right command line, JSON where it prints, one line with what to
do where there is no machine, and a place in the generated pages; and every command of xl's acts or says what there is instead.

Control: of an example that is no command line, and of a command of xl's that nobody knows, the same looks find that.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
import termios
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from domains.control.protocol import Exit
from domains.xenctl.advice import about_command
from domains.xenctl.commands import COMMANDS, function_of
from domains.xenctl.completion_command import SCRIPTS, candidates
from domains.xenctl.examples import EXAMPLES
from domains.xenctl.main import run
from domains.xenctl.reading import names_of, parameters_of, read
from domains.xenctl.xl_table import MISSING_OPTIONS, REFUSED, XL_COMMANDS
from scripts.command_pages import ENVIRONMENT, MANUAL, MEANINGS, TABLE, manual, table
from tests.machines import REPOSITORY, XENCTL, Machine

WITHOUT_JSON = {
    "console": "a stream of bytes",
    "network-capture": "a stream of packets",
    "graph": "a drawing, in the form that --format says",
    "exercise": "words for who learns",
    "cpupool-numa-split": "always refused",
}
"""Commands that print no data, and what they do instead."""
NO_MACHINE = {
    **dict.fromkeys(("run", "start", "create", "up", "validate", "graph", "sched-sim", "lab", "exercise", "completion"), ""),
    "fleet": "", "key": "", "restore": "", "down": "", "ps": "",  # of a machine that is not there nothing is there
}  # fmt: skip
"""Commands that need no machine, or make one."""


def xenctl(*words: str) -> tuple[int, str, str]:
    """A command in this process: exit code, output, errors."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(list(words))
    return int(code), out.getvalue(), err.getvalue()


def is_right(line: str) -> bool:
    """Whether this is a command line of a command that there is."""
    name, *words = shlex.split(line)
    return name in COMMANDS and (read(function_of(name), words) is not None or "--format" in words)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_has_an_example_and_fits_a_narrow_terminal(
    name: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    code, out, err = xenctl(name, option)
    assert (code, err) == (0, "")
    assert f"Example: xenctl {EXAMPLES[name][0]}" in out
    assert "\x1b" not in out
    too_long = [
        line for line in out.partition("Example:")[0].splitlines() if len(line) > 60 and " " in line.strip()
    ]
    assert not [line for line in too_long if not line.startswith("Usage:")]


def test_every_example_is_a_right_command_line() -> None:
    assert [line for line, _ in EXAMPLES.values() if not is_right(line)] == []
    assert EXAMPLES.keys() == COMMANDS.keys()
    assert not is_right("list --frob")
    assert not is_right("frob")


@pytest.mark.parametrize("name", COMMANDS)
def test_what_prints_prints_json(name: str) -> None:
    names = {given for one in parameters_of(function_of(name)) for given in names_of(one)}
    assert ("--json" in names) == (name not in WITHOUT_JSON)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in NO_MACHINE])
def test_without_a_machine_a_command_says_in_one_line_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XENCTL_MACHINE", "nowhere")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "web.cfg").write_text('name = "web"\nkernel = "python:domains.guests.idle:Idle"\n')
    code, out, err = xenctl(*shlex.split(EXAMPLES[name][0]))
    assert (code, out, len(err.splitlines())) == (Exit.FAILURE, "", 1), err
    assert "xenctl start --machine nowhere" in err or name == "cpupool-numa-split"


@pytest.mark.parametrize("name", XL_COMMANDS)
def test_each_command_of_xl_acts_or_says_what_there_is_instead(name: str) -> None:
    assert (name in COMMANDS) != (name in REFUSED)
    if name in REFUSED:
        code, out, err = xenctl(name, "web")
        assert (code, out, len(err.splitlines())) == (Exit.USAGE, "", 1)
        assert REFUSED[name] in err


def test_a_command_that_nobody_knows_is_not_taken_for_one_of_xl() -> None:
    assert about_command("frob", list(COMMANDS)) == "there is no command 'frob'; see 'xenctl --help'"
    assert REFUSED.keys() <= set(XL_COMMANDS)
    assert MISSING_OPTIONS.keys() <= set(XL_COMMANDS) & COMMANDS.keys()


def test_the_committed_pages_are_what_the_commands_say() -> None:
    assert TABLE.read_text() == table(), "run scripts/command-pages"
    assert MANUAL.read_text() == manual(), "run scripts/command-pages"
    text = (REPOSITORY / "docs" / "xenctl.md").read_text()
    codes = re.findall(r"^\| (\d) \| ", text.partition("## Exit codes")[2].partition("\n## ")[0], re.M)
    assert [int(code) for code in codes] == [int(code) for code in MEANINGS] == [int(code) for code in Exit]
    assert "XENCTL_MACHINE" in ENVIRONMENT


def test_words_are_completed_with_commands_options_and_domains(
    shared_machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_machine.guest(
        tmp_path, "class Probe(Guest):\n    def main(self): self.kernel.sleep(1e6)", name="web"
    )
    monkeypatch.setenv("XENCTL_MACHINE", shared_machine.name)
    for words, found in (
        (["sysr"], ["sysrq"]),
        (["rename", "w"], ["web"]),
        (["rename", "web", ""], []),
        (["uptime", "web", "D"], ["Domain-0"]),
        (["sched-credit", "-d", "we"], ["web"]),
        (["list", "--verb"], ["--verbose"]),
        (["list", "--machine", shared_machine.name[:5]], [shared_machine.name]),
        (["list", "--machine", "not-there", "w"], []),
        (["frob", ""], []),
        (["create", ""], []),
    ):
        assert [one for one in candidates(words) if one != "wide"] == found, words
    shared_machine.destroy("web")


def test_bash_completes_by_its_script() -> None:
    script = f'xenctl() {{ {shlex.join(XENCTL)} "$@"; }}\n{SCRIPTS["bash"]}\n'
    script += 'COMP_WORDS=(xenctl sysr); COMP_CWORD=1; _xenctl; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.stdout == "sysrq\n", done.stderr


def test_a_list_fits_a_narrow_terminal_and_is_whole_in_a_pipe(
    shared_machine: Machine, tmp_path: Path
) -> None:
    long = "a-domain-whose-name-is-longer-than-the-whole-terminal-is-wide"
    shared_machine.guest(
        tmp_path, "class Probe(Guest):\n    def main(self): self.kernel.sleep(1e6)", name=long
    )
    assert long in shared_machine.xenctl("list").stdout
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 60))
    command = [sys.executable, "-m", "domains.xenctl", "list"]
    for columns, width in ("", 60), ("52", 52), ("many", 60):
        environment = {**shared_machine.environment, "NO_COLOR": "1", "COLUMNS": columns}
        subprocess.run(command, stdout=terminal, env=environment, cwd=REPOSITORY, check=True, timeout=60)
        lines = os.read(master, 1 << 16).decode().splitlines()
        assert max(map(len, lines)) == width
        assert any("…" in line for line in lines)
        assert "\x1b" not in "".join(lines)
    os.close(terminal)
    os.close(master)
    shared_machine.destroy(long)
