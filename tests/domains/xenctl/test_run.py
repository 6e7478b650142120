"""`xenctl run` as a test of somebody's kernel uses it: the guest's end is the exit code, its console the output,
and nothing of the machine is left, however the command ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from domains.xenctl.folder import folder_of
from tests.guests.compiled import NEEDS, can_compile, compile_guest
from tests.machines import REPOSITORY, XENCTL, pids_of, wait_until
from tests.warm_xenctl import warm_xenctl

GUESTS = """
import sys
from domains.kernel.guest import Guest

CODES = {"nothing": None, "0": 0, "3": 3, "words": "it went wrong"}


class Clean(Guest):
    def main(self):
        print("hello", self.kernel.cmdline)


class Crashing(Guest):
    def main(self):
        print("about to fail")
        raise ValueError("on purpose")


class Endless(Guest):
    def main(self):
        print("here")
        self.kernel.wait(lambda: False)


class Busy(Guest):
    def main(self):
        print("here")
        while True:
            pass


class Rebooting(Guest):
    def main(self):
        print("again")
        self.kernel.shutdown(1)


class RebootingOnce(Guest):
    def main(self):
        first = self.kernel.domid == 1
        print("first" if first else "second")
        self.kernel.shutdown(1 if first else 0)


class InPieces(Guest):
    def main(self):
        for piece in ("all tes", "ts pas", "sed\\n"):
            print(piece, end="", flush=True)
            self.kernel.sleep(0.05)
        self.kernel.wait(lambda: False)


class Leaving(Guest):
    def main(self):
        sys.exit(CODES[self.kernel.cmdline])


class SayingToXen(Guest):
    def main(self):
        for piece in (b"all tests ", b"passed\\n"):
            self.kernel.hypercalls.hypercall_console_io(0, piece)


class Talker(Guest):
    def main(self):
        for number in range(2000):
            print("line", number)


class TalkingOn(Guest):
    def main(self):
        while True:
            print("on and on")
"""


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = tmp_path_factory.mktemp("guests") / "guests.py"
    module.write_text(GUESTS)
    return module


class Run:
    """One `xenctl run` beside the test."""

    def __init__(self, *words: str, cwd: Path = REPOSITORY, modules: Path | None = None) -> None:
        path = [str(modules), str(REPOSITORY)] if modules is not None else [str(REPOSITORY)]
        self.process = subprocess.Popen(
            [*XENCTL, "run", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": ":".join(path)},
            cwd=cwd,
            text=True,
        )
        self.stdout = self.stderr = ""

    @property
    def folders(self) -> list[Path]:
        """Folders of the command's machine."""
        return list(folder_of("x").parent.glob(f"run-{self.process.pid}-*"))

    @property
    def machine_pids(self) -> set[int]:
        """Processes of the command's machine."""
        supervisors = set(pids_of(self.process.pid)) - {self.process.pid}
        return {pid for supervisor in supervisors for pid in pids_of(supervisor)}

    def says(self, text: str) -> None:
        """Wait for a whole line on standard output."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == text

    def end(self, seconds: float = 60) -> int:
        """Its exit code; nothing of its machine may be left by then."""
        self.stdout, self.stderr = self.process.communicate(timeout=seconds)
        assert not self.folders
        return self.process.returncode


@pytest.fixture
def no_leftovers() -> Iterator[None]:
    before = set(pids_of(os.getpid()))
    yield
    assert set(pids_of(os.getpid())) <= before


def run(guests: Path, name: str, *options: str) -> Run:
    return Run(f"python:{guests}:{name}", "--memory", "8", *options)


def to_its_end(*words: str) -> subprocess.CompletedProcess[str]:
    """A run to which nothing happens on its way; nothing of its machine may be left by then."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        done = warm_xenctl().run(["run", *words], {**os.environ, "XDG_RUNTIME_DIR": folder}, "", 60)
        assert not list(Path(folder).glob("xenoscope/*"))
    return done


def ran(guests: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    return to_its_end(f"python:{guests}:{name}", "--memory", "8", *options)


def test_a_guest_that_powers_off_is_success_and_its_console_is_the_output(guests: Path) -> None:
    done = ran(guests, "Clean", "--cmdline", 'a "b" \\c')
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["hello", "a", '"b"', "\\c"]
    assert done.stderr == ""


def test_every_byte_of_the_console_comes_out_in_order(guests: Path) -> None:
    done = ran(guests, "Talker")
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == [str(n) for n in range(2000)]


def test_a_crash_is_exit_code_5_with_what_the_hypervisor_says(guests: Path) -> None:
    done = ran(guests, "Crashing")
    assert done.returncode == 5
    assert "ValueError: on purpose" in done.stdout
    *log, error = done.stderr.splitlines()
    assert error == "xenctl: the guest crashed (crash)"
    assert log
    assert all(line.startswith(("d1", "(d1)", "    ")) for line in log)


@pytest.mark.parametrize("name", ["Endless", "Busy"])
def test_a_guest_that_takes_too_long_is_exit_code_4(guests: Path, name: str) -> None:
    done = ran(guests, name, "--timeout", "4")
    assert done.returncode == 4
    assert done.stderr == "xenctl: the guest did not end in time\n"
    assert done.stdout in ("here\n", "here\r\n", "")


def test_a_time_out_before_the_machine_is_up_ends_it_too(guests: Path) -> None:
    done = ran(guests, "Endless", "--timeout", "0.01")
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1


def test_expected_text_ends_the_run_also_when_it_comes_in_pieces(guests: Path) -> None:
    done = ran(guests, "InPieces", "--expect", "tests passed")
    assert done.returncode == 0, done.stderr
    assert "all tests passed" in done.stdout


def test_a_guest_that_ends_without_the_expected_text_has_failed(guests: Path) -> None:
    done = ran(guests, "Clean", "--expect", "tests passed")
    assert done.returncode == 1
    assert done.stderr == "xenctl: the guest ended without printing 'tests passed': poweroff\n"


@pytest.mark.parametrize(
    ("code", "exit_code", "says"),
    [("nothing", 0, "code 0"), ("0", 0, "code 0"), ("3", 5, "code 3"), ("words", 5, "it went wrong")],
)
def test_a_guest_that_calls_exit_ends_in_order_and_its_code_is_said(
    guests: Path, code: str, exit_code: int, says: str
) -> None:
    done = ran(guests, "Leaving", "--cmdline", code)
    assert done.returncode == exit_code, done.stderr
    assert done.stdout.rstrip().endswith(says)
    assert "protocol" not in done.stderr


def test_what_a_guest_says_by_console_io_is_shown_with_its_mark_and_can_be_expected(guests: Path) -> None:
    done = ran(guests, "SayingToXen", "--expect", "all tests passed")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(d1) all tests passed\n"
    shown = ran(guests, "SayingToXen")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == "(d1) all tests passed\n"


def test_a_reboot_is_an_end_unless_it_is_to_start_again(guests: Path) -> None:
    done = ran(guests, "Rebooting")
    assert done.returncode == 1
    assert "reboot" in done.stderr
    again = ran(guests, "RebootingOnce", "--restart")
    assert again.returncode == 0, again.stderr
    assert again.stdout.split() == ["first", "second"]


def test_the_result_as_json_is_all_there_is_on_standard_output(guests: Path) -> None:
    done = ran(guests, "Crashing", "--json")
    assert done.returncode == 5
    result = json.loads(done.stdout)
    assert (result["ended"], result["code"]) == ("crash", 5)
    assert "on purpose" in result["console"]
    assert result["log"]
    assert 0 < result["seconds"] < 60


def test_a_disk_reaches_the_guest(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"\1" * 4096)
    done = to_its_end(
        "python:domains.guests.blockcheck:BlockCheck", "--memory", "16", "--disk", f"{image},raw,xvda,rw"
    )
    assert done.returncode == 0, done.stderr
    assert "disk of 8 sectors" in done.stdout
    assert image.read_bytes() != b"\1" * 4096


@pytest.mark.usefixtures("no_leftovers")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)],
)
def test_whatever_ends_the_command_ends_its_machine(guests: Path, number: int, code: int) -> None:
    running = run(guests, "Endless")
    running.says("here")
    folders, pids = running.folders, running.machine_pids
    assert len(folders) == 1
    assert len(pids) >= 4
    running.process.send_signal(number)
    assert running.process.wait(20) == code
    running.process.communicate()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 5, "the end of the machine")
    wait_until(lambda: not running.folders, 5, "the removal of the folder")


def test_a_kill_while_the_machine_starts_leaves_nothing(guests: Path) -> None:
    running = run(guests, "Endless")
    wait_until(lambda: running.machine_pids, 20, "the machine's first process")
    pids = running.machine_pids
    running.process.kill()
    running.process.communicate()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 5, "the end of the machine")
    wait_until(lambda: not running.folders, 5, "the removal of the folder")


@pytest.mark.needs_headers
@pytest.mark.skipif(not can_compile(), reason=NEEDS)
def test_an_engine_that_cannot_be_loaded_ends_its_guest_and_not_the_machine(tmp_path: Path) -> None:
    """The supervisor loads it before it is asked to. Control: without `suppress` there the machine dies, and says nothing of a
    crash.
    """
    image = compile_guest(REPOSITORY / "tests" / "guests" / "hello.c", tmp_path / "hello")
    (tmp_path / "capstone.py").write_text("raise ImportError('capstone is broken here')\n")
    running = Run(str(image), "--memory", "16", modules=tmp_path)
    assert running.end() == 5
    assert "d1 crashed: its CPU cannot be loaded: capstone is broken here" in running.stderr
    assert not running.folders


def test_a_machine_that_dies_of_itself_is_a_failure_in_one_line(guests: Path) -> None:
    running = run(guests, "Endless")
    running.says("here")
    core = next(
        pid for pid in running.machine_pids if Path(f"/proc/{pid}/comm").read_text().strip() == "xeno-core"
    )
    os.kill(core, signal.SIGKILL)
    assert running.end(20) == 1
    assert running.stderr.startswith("xenctl: the machine has died")
    assert len(running.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["/nonexistent/vmlinuz"], 1, "/nonexistent/vmlinuz"),
        (["/etc/passwd"], 1, "neither an ELF file nor a bzImage"),
        (["/etc"], 1, "/etc"),
        (["python:nowhere.py:Class"], 1, "nowhere.py"),
        (["python:domains.guests.idle:Nobody"], 5, "crash"),
        (["python:domains.guests.idle"], 2, "python:package.module:Class"),
        (["python:domains.guests.idle:Idle", "--disk", "frob"], 2, "vdev"),
        (["python:domains.guests.idle:Idle", "--disk", "/nonexistent/d,,xvda"], 1, "/nonexistent/d"),
        (["python:domains.guests.idle:Idle", "--ramdisk", "/nonexistent/r"], 1, "/nonexistent/r"),
        (["python:domains.guests.idle:Idle", "--memory", "1"], 1, "1 MiB"),
        (["python:domains.guests.idle:Idle", "--memory", "0"], 2, "--memory"),
        (["python:domains.guests.idle:Idle", "--cmdline", "x" * 1024], 2, "command line"),
        (["python:domains.guests.idle:Idle", "--timeout", "soon"], 2, "--timeout"),
        (["python:domains.guests.idle:Idle", "--for", "1"], 2, "--seed"),
        (["k", b"--cmdline=\xff".decode(errors="surrogateescape")], 2, "UTF-8"),
        ([], 2, "KERNEL"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_line(words: list[str], code: int, why: str) -> None:
    done = to_its_end(*words)
    assert done.returncode == code, done.stderr
    assert why in done.stderr
    assert done.stderr.splitlines()[-1].startswith("xenctl: ")
    assert code == 5 or len(done.stderr.splitlines()) == 1


def test_a_relative_kernel_is_found_from_where_the_command_runs(guests: Path) -> None:
    done = Run(f"python:./{guests.name}:Clean", "--memory", "8", cwd=guests.parent)
    assert done.end() == 0, done.stderr


def test_a_reader_that_goes_away_ends_the_run_as_sigpipe_ends_other_commands(guests: Path) -> None:
    running = run(guests, "TalkingOn")
    running.says("on and on")
    assert running.process.stdout is not None
    assert running.process.stderr is not None
    running.process.stdout.close()
    assert running.process.wait(30) == -signal.SIGPIPE
    assert running.process.stderr.read() == ""
    running.process.stderr.close()
    assert not running.folders
