"""Somebody's project in a folder of its own, whose tests are run by a pytest of their own with the plugin; what is left then."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from domains.xenctl.folder import supervisor_pid
from tests.machines import REPOSITORY, pids_of, wait_until

GUESTS = """
import sys
from domains.kernel.guest import Guest
from domains.kernel.shutdown import await_shutdown


class Idle(Guest):
    def main(self):
        print("here", flush=True)
        self.kernel.wait(lambda: False)


class Asked(Guest):
    def main(self):
        print("serving")
        print("asked to", await_shutdown(self.kernel))


class Told(Guest):
    def main(self):
        while True:
            match input():
                case "crash":
                    raise ValueError("as \\x1b[31mtold")
                case "reboot":
                    self.kernel.shutdown(1)
                case "xen":
                    self.kernel.hypercalls.hypercall_console_io(0, b"said to Xen\\n")
                    return
                case "forget":
                    self.kernel.xenbus.rm("data")
                    return
                case code if code.isdecimal():
                    sys.exit(int(code))
                case word:
                    print("heard", word)
"""
TITLE = re.compile(r"^_{3,} (?:ERROR at \w+ of )?(\w+) _{3,}$", re.MULTILINE)


class Project:
    """A folder with guests and tests."""

    def __init__(self, folder: Path, tests: str, ini: str = "") -> None:
        self.folder = folder
        (folder / "guests.py").write_text(GUESTS)
        (folder / "test_it.py").write_text(tests)
        (folder / "pytest.ini").write_text(f"[pytest]\naddopts = -p no:cacheprovider\n{ini}")

    def start(self, *words: str, runtime: str) -> subprocess.Popen[str]:
        """A pytest, in a session of its own."""
        plugins = ("-p", "domains.testing.plugin", "-p", "xdist")
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "XDG_RUNTIME_DIR": runtime,
        }
        for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
            environment.pop(name, None)
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *plugins, *words],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, seconds: float = 90) -> Outcome:
        """A pytest to its end. Nothing of its machines may be left then."""
        with runtime() as folder:
            running = self.start(*words, runtime=folder)
            try:
                output, _ = running.communicate(timeout=seconds)
            finally:
                running.kill()
            assert not list(Path(folder).glob("xenoscope/*"))
        return Outcome(running.returncode, output)


class Outcome:
    """What a pytest said; `failed`: of each test that failed what its report says, its sections included."""

    def __init__(self, code: int, output: str) -> None:
        self.code = code
        self.output = output
        self.summary = output.rstrip().rpartition("\n")[2]
        parts = TITLE.split(output.partition("short test summary")[0])
        self.failed = dict(zip(parts[1::2], parts[2::2], strict=True))


@contextmanager
def runtime() -> Iterator[str]:
    """A folder for machines, whose path is as short as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="xp-", dir="/tmp") as folder:
        yield folder


def machines_of(folder: str, count: int) -> list[int]:
    """The processes of so many machines whose guests run, and at the end those that keep them."""
    wait_until(
        lambda: len([place for place in places_of(folder) if has_guest(place)]) >= count, 60, "machines"
    )
    supervisors = [pid for place in places_of(folder) if (pid := supervisor_pid(place)) is not None]
    pids = [pid for one in supervisors for pid in pids_of(one)]
    for supervisor in supervisors:
        with suppress(OSError):  # its test has ended meanwhile
            pids.append(parent_of(supervisor))
    return pids


def places_of(folder: str) -> list[Path]:
    """The machines' own folders."""
    return list(Path(folder).glob("xenoscope/*"))


def has_guest(place: Path) -> bool:
    """Whether a machine has a domain besides Dom0."""
    supervisor = supervisor_pid(place)
    names = [] if supervisor is None else [name_of(pid) for pid in pids_of(supervisor)]
    return any(name.startswith("xeno-dom") and name != "xeno-dom0" for name in names)


def name_of(pid: int) -> str:
    """A process's name; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def parent_of(pid: int) -> int:
    """Its parent's number."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def all_end(folder: str, pids: Sequence[int], seconds: float = 40) -> None:
    """Wait until none of them is there, and no folder of a machine."""
    wait_until(lambda: not [pid for pid in pids if lives(pid)], seconds, f"the end of {pids}")
    wait_until(lambda: not places_of(folder), 10, "the removal of the machines' folders")


def lives(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_session(process: subprocess.Popen[Any]) -> None:
    """End a pytest that a test has left, with its workers."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
