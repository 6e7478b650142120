"""What xenctl says when it cannot do as it is told: a line for each mistake, never a traceback, and whose help to read."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from domains.control.protocol import ControlError
from domains.xenctl.folder import make_folder
from domains.xenctl.output import printable
from domains.xenctl.xl_table import OTHERS, REFUSED
from tests.machines import REPOSITORY, XENCTL, wait_until

HELLO = ("run", "python:domains.guests.hello:Hello", "--memory", "8")
HEAVY = (
    "yaml",
    "domains.xenctl.topology",
    "domains.xenctl.run",
    "domains.xenctl.sched_sim.",
    "hypervisor.sched.",
    "domains.lab",
    "domains.dom0",
    "rich.",
    "numpy",
    "pydantic",
    "typer",
    "zmq",
)
"""What only other commands need than those that ask a running machine."""


def xenctl(
    *words: str, folder: Path | None = None, before: str = "", after: str = ""
) -> tuple[int, str, str]:
    """A command in a shell, between these words; (exit code, standard output, standard error)."""
    done = subprocess.run(
        ["sh", "-c", f'{before} "$@" {after}', "sh", *XENCTL, *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=REPOSITORY,
        env={**os.environ, **({"XDG_RUNTIME_DIR": str(folder)} if folder is not None else {})},
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def folder() -> Iterator[Path]:
    """A runtime folder with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


def test_without_a_command_the_help_is_shown_as_it_is_meant_to_be_read() -> None:
    code, out, err = xenctl()
    assert (code, err) == (0, "")
    assert out == xenctl("--help")[1]
    assert "\n  create " in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["create"], "see 'xenctl create --help'"),
        (["list", "--frob"], "see 'xenctl list --help'"),
        (["--frob"], "see 'xenctl --help'"),
        (["creat"], "did you mean 'create'?; see 'xenctl --help'"),
        (["frobnicate"], "there is no command 'frobnicate'; see 'xenctl --help'"),
        (["vncviewer", "web"], "'vncviewer': there is no device model and no display: use 'xenctl console'"),
        (["xenstore-read", "/"], "XENSTORED_PATH"),
        (["\x1b[2J"], "'\\x1b[2J'"),
        (
            [*HELLO, "--timeout", "nan"],
            "'--timeout': nan is no number that can be meant; see 'xenctl run --help'",
        ),
        (["top", "-d", "inf"], "inf is no number that can be meant"),
        (["start", "--slice-ms", "nan"], "'--slice-ms': nan is no number that can be meant"),
        *(
            ([*HELLO, option, ""], f"{option}: the text is empty")
            for option in ("--expect", "--exit-on", "--fail-on")
        ),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line_with_the_help_to_read(words: list[str], says: str) -> None:
    code, out, err = xenctl(*words)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 1


def test_advice_is_given_for_no_command_that_there_is() -> None:
    commands = {
        line.split()[0] for line in xenctl()[1].partition("Commands:")[2].splitlines() if line.strip()
    }
    assert "create" in commands
    assert not commands & (set(REFUSED) | set(OTHERS))


def test_all_mistakes_of_a_description_are_shown_at_once_each_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "a.cfg"
    file.write_text(
        'name = "a"\nkernel = "k"\nmemroy = 5\nvcpus = 0\nboot = "c"\ndisk = ["frob",\n "/x,,zzz"]\n'
    )
    code, _, err = xenctl("create", str(file), folder=tmp_path)
    assert code == 1
    warning, *mistakes = err.splitlines()
    assert warning.startswith(f"xenctl: warning: {file}:5:1: boot is ignored")
    places = [line.removeprefix(f"xenctl: {file}:").partition(":")[0] for line in mistakes]
    assert places == ["3", "4", "6", "7"]


@pytest.mark.parametrize(
    ("override", "code", "says"),
    [
        ('name="three";memory=-', 2, "expected"),
        ('name="three";vcpus=0', 2, "vcpus must lie"),
        ("name", 2, "KEY=VALUE"),
        ('name="', 2, "not closed"),
    ],
)
def test_overrides_that_are_more_or_less_than_one_setting(
    tmp_path: Path, override: str, code: int, says: str
) -> None:
    found, _, err = xenctl("create", "domains/guests/idle.cfg", override, folder=tmp_path)
    assert (found, len(err.splitlines())) == (code, 1), err
    assert says in err


def test_standard_output_that_is_closed_or_full_is_told_in_one_line(folder: Path) -> None:
    for after in (">&-", ">/dev/full"):
        code, _, err = xenctl(*HELLO, folder=folder, after=after)
        assert code == 1
        assert err.startswith("xenctl: cannot write standard output: ")
        assert len(err.splitlines()) == 1
    assert list((folder / "xenoscope").iterdir()) == []


@pytest.mark.parametrize(
    "before", ["unset PYTHONUNBUFFERED;", "PYTHONUNBUFFERED=1; export PYTHONUNBUFFERED;"]
)
@pytest.mark.parametrize(
    "words", [("--help",), ("lab", "popf", "--trace")], ids=["little", "more than a buffer"]
)
def test_a_full_standard_output_is_told_as_such_whenever_the_command_notices(
    words: tuple[str, ...], before: str
) -> None:
    """Little is written when the command ends, more than a buffer (or anything, of a Python that has none) within it."""
    assert xenctl(*words, before=before, after=">/dev/full") == (
        1,
        "",
        "xenctl: cannot write standard output: No space left on device\n",
    )


@pytest.mark.parametrize("words", [("--help",), ("lab",), ("exercise",)])
def test_a_reader_that_goes_away_ends_a_command_as_sigpipe_ends_others(words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = subprocess.Popen([*XENCTL, *words], stdout=writer, stderr=subprocess.PIPE, cwd=REPOSITORY)
    os.close(writer)
    said = command.communicate(timeout=60)[1]
    assert (command.returncode, said) == (-signal.SIGPIPE, b"")


def test_a_slow_reader_of_a_pipe_that_does_not_block_gets_everything() -> None:
    """What runs a command may have made the pipe so. It is full when the command begins."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    full = os.write(writer, bytes(fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)))
    command = subprocess.Popen([*XENCTL, "--help"], stdout=writer, stderr=subprocess.PIPE, cwd=REPOSITORY)
    os.close(writer)
    with open(reader, "rb") as out:
        wait_until(lambda: command.poll() is not None or state_of(command.pid) == "S", 60, "its wait")
        assert command.poll() is None, "it did not wait for its reader"
        shown = out.read()[full:].decode()
    assert (command.communicate(timeout=60)[1], command.returncode) == (b"", 0)
    assert shown == xenctl("--help")[1]


def state_of(pid: int) -> str:
    """A process's, as proc(5) has it: S is a wait for others."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_working_directory_that_is_gone_is_told_as_such(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code, _, err = xenctl(*HELLO, before=f"cd {gone}; rmdir {gone};")
    assert (code, err) == (1, "xenctl: the working directory has been removed; change to another\n")


def test_any_of_the_three_streams_may_be_closed_from_the_start(folder: Path) -> None:
    assert xenctl(*HELLO, folder=folder, after="<&-")[0] == 0
    code, out, _ = xenctl(*HELLO, folder=folder, after="2>&-")
    assert (code, out.split()[0]) == (0, "hello")


def test_a_umask_that_takes_everything_away_takes_nothing_from_the_machine(folder: Path) -> None:
    code, out, err = xenctl(*HELLO, folder=folder, before="umask 777;")
    assert (code, out.split()[0]) == (0, "hello"), err


def test_a_folder_that_is_full_is_told_in_one_line_and_nothing_stays_behind(folder: Path) -> None:
    """The folder has room for two names: the one above the machine's, and the machine's. Skipped where a user may not
    mount in a namespace of their own.
    """
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "x", str(folder)], check=False).returncode:
        pytest.skip("no mounts in user namespaces here")
    script = f'mount -t tmpfs -o nr_inodes=3 x {folder}; chmod 700 {folder}; "$@"; echo $?; find {folder}'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *XENCTL, *HELLO],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=60,
        env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
        check=False,
    )
    code, *left = done.stdout.split()
    assert (code, len(done.stderr.splitlines())) == ("1", 1), done.stderr
    assert "No space left on device" in done.stderr
    assert left == [str(folder), str(folder / "xenoscope")]


def test_a_folder_of_somebody_else_is_not_to_be_removed_but_another_one_named(folder: Path) -> None:
    """As under `unshare -r`, whose root finds the folder of the host's root in /tmp."""
    code, _, err = xenctl(*HELLO, folder=folder)
    assert code == 0, err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getuid", lambda: os.stat("/").st_uid + 1)
        with pytest.raises(ControlError, match="belongs to somebody else; set XDG_RUNTIME_DIR"):
            make_folder(folder / "xenoscope" / "m")


@pytest.mark.parametrize("words", [["list"], ["info"], ["dmesg"], ["pause", "x"], ["xenstore-ls"]])
def test_a_question_to_a_machine_imports_nothing_that_only_other_commands_need(
    tmp_path: Path, words: list[str]
) -> None:
    script = (
        "import sys\nfrom domains.xenctl.main import run\n"
        f"run({words!r})\nimport domains.xenctl.attach\n"
        f"print([m for m in sys.modules if m.startswith({HEAVY!r})])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


@pytest.mark.parametrize(
    "module", ["domains.xenctl.main", "getopt", "domains.xenctl.listing_commands", "socket", "msgpack"]
)
def test_a_ctrl_c_while_modules_are_loaded_ends_the_command_without_a_word(module: str) -> None:
    script = (
        "import os, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "from domains.xenctl.__main__ import main\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "sys.argv = ['xenctl', 'list']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert done.returncode in (-signal.SIGINT, 128 + signal.SIGINT)


def test_what_a_terminal_would_act_upon_is_shown_by_its_number() -> None:
    assert printable("a\x1b[2J\x07\x9b\u202e é€") == r"a\x1b[2J\x07\x9b\u202e é€"


def test_validate_prints_no_escape_sequence_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text('name: t\ndomains:\n  "a\\e[2J":\n    kernel: "python:a:B"\n    "b\\e]0;x\\a": 5\n')
    for options in ((), ("--json",)):
        _, out, err = xenctl("validate", str(file), *options)
        assert err + out
        assert not {"\x1b", "\x07"} & set(err + out)
