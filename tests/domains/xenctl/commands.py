"""Commands against a machine, in this process; and paused domains with several vCPUs."""

from __future__ import annotations

import threading
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from domains.control.operations import XenstoreLs
from domains.control.sched_operations import VcpuList
from domains.xenctl.main import run
from tests.domains.dom0.toolstack.elf_files import LINUX_NOTES, elf
from tests.machines import Machine


def make(machine: Machine, tmp_path: Path, *lines: str, name: str = "two") -> None:
    """A paused PV domain of machine code."""
    kernel = tmp_path / "kernel"
    kernel.write_bytes(elf(note_segment=LINUX_NOTES))
    text = "\n".join([f'name = "{name}"', f'kernel = "{kernel}"', "memory = 8", *lines])
    done = machine.create(tmp_path, text, "--paused")
    assert done.returncode == 0, done.stderr


class Done(NamedTuple):
    code: int
    out: str
    err: str


def xenctl(machine: Machine, *words: str | Path) -> Done:
    """A command against the machine. It has the environment and the streams of the whole process: two side by side would
    restore each other's, and leave the machine's name behind.
    """
    assert threading.current_thread() is threading.main_thread(), "Machine.xenctl is for threads"
    out, err = StringIO(), StringIO()
    environment = patch.dict("os.environ", XENCTL_MACHINE=machine.name)
    with environment, redirect_stdout(out), redirect_stderr(err):
        code = run([str(word) for word in words])
    return Done(int(code), out.getvalue(), err.getvalue())


def succeeds(machine: Machine, *words: str | Path) -> str:
    """What a command prints that does as it is told without a word of complaint."""
    done = xenctl(machine, *words)
    assert (done.code, done.err) == (0, ""), done
    return done.out


def vcpus(machine: Machine, name: str = "two") -> list[tuple[list[int], list[int]]]:
    """Hard and soft affinity of each vCPU."""
    found = machine.ask(VcpuList((name,)))["vcpus"]
    assert [one["vcpu"] for one in found] == list(range(len(found)))
    return [(one["hard"], one["soft"]) for one in found]


def availability(machine: Machine, name: str = "two") -> list[str]:
    nodes = machine.ask(XenstoreLs(f"/local/domain/{machine.domain(name)['domid']}/cpu"))
    return [node["value"].decode() for node in nodes if node["path"].endswith("/availability")]


def lines_of(machine: Machine, *words: str) -> list[list[str]]:
    """What a command prints, cut at blanks."""
    return [line.split() for line in succeeds(machine, *words).splitlines()]
