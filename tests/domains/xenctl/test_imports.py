"""What `xenctl list`, `create` and `destroy` load: imports are most of what a command costs whoever waits for it, and one that
creeps in is not seen otherwise. Each runs in a process of its own against a real machine.

`list` by itself is answered by quick.py, which loads next to nothing, and prints what the command would.

Control: `list --help`, which loads typer, and `list --json`, which loads json, are found to load too much. Of the quick way
`list -c`, which it leaves to the others, is one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from domains.xenctl.quick import answer
from tests.machines import REPOSITORY, Machine

OURS = {
    "domains",
    "domains.control",
    "domains.control.address",
    "domains.control.arguments",
    "domains.control.client",
    "domains.control.cpus",
    "domains.control.description",
    "domains.control.domain_operations",
    "domains.control.exit_code",
    "domains.control.device_operations",
    "domains.control.memory_operations",
    "domains.control.migration_operations",
    "domains.control.operations",
    "domains.control.protocol",
    "domains.control.records",
    "domains.control.sched_operations",
    "domains.control.snapshot_operations",
    "domains.control.vdev",
    "domains.control.vxlan_operations",
    "domains.xenctl",
    "domains.xenctl.commands",
    "domains.xenctl.domain_commands",
    "domains.xenctl.folder",
    "domains.xenctl.listing_commands",
    "domains.xenctl.machine",
    "domains.xenctl.main",
    "domains.xenctl.options",
    "domains.xenctl.output",
    "domains.xenctl.place",
    "domains.xenctl.reading",
    "domains.xenctl.tables",
    "hypervisor",
    "hypervisor.public",
    "hypervisor.public.types",
    "hypervisor.wire",
    "hypervisor.wire.errors",
    "hypervisor.wire.messages",
    "hypervisor.wire.zmtp",
}
"""The modules of this repository that a command on domains may load."""
DESCRIPTIONS = {
    "domains.control.files",
    "domains.dom0",
    "domains.dom0.toolstack",
    "domains.dom0.toolstack.xlcfg",
    "domains.dom0.toolstack.xlcfg.backend",
    "domains.dom0.toolstack.xlcfg.bootloader",
    "domains.dom0.toolstack.xlcfg.disk",
    "domains.dom0.toolstack.xlcfg.disk_syntax",
    "domains.dom0.toolstack.xlcfg.hvm",
    "domains.dom0.toolstack.xlcfg.load",
    "domains.dom0.toolstack.xlcfg.reader",
    "domains.dom0.toolstack.xlcfg.schema",
    "domains.dom0.toolstack.xlcfg.syntax",
    "domains.dom0.toolstack.xlcfg.vif",
}
"""And what reads a description besides."""
OTHERS = {"msgpack"}
"""The packages of others."""
COSTLY = {
    "argparse",
    "asyncio",
    "ctypes",
    "dataclasses",
    "difflib",
    "inspect",
    "json",
    "logging",
    "multiprocessing",
    "shutil",
    "subprocess",
    "tempfile",
    "threading",
    "traceback",
}
"""Of Python's own those that take long, and that none of the three has use for."""
QUICK = {
    "domains",
    "domains.xenctl",
    "domains.xenctl.place",
    "domains.xenctl.quick",
    "domains.xenctl.tables",
    "hypervisor",
    "hypervisor.wire",
    "hypervisor.wire.errors",
    "hypervisor.wire.zmtp",
}
"""What the quick way may load."""
NEVER_QUICK = {"enum", "pathlib", "re", "selectors", "signal", "socket", "typing"}
"""What it was made to do without."""
SCRIPT = """
import os, sys
before = set(sys.modules)
from domains.xenctl.main import run
code = run(sys.argv[1:])
loaded = sorted(set(sys.modules) - before)
import json
os.write(int(os.environ["RESULT"]), json.dumps(loaded).encode())
sys.exit(code)
"""


QUICK_SCRIPT = SCRIPT.replace("domains.xenctl.main import run", "domains.xenctl.quick import answer").replace(
    "code = run(sys.argv[1:])", "print(answer(sys.argv[1:]), end=''); code = 0"
)


def loaded_by(machine: Machine, tmp_path: Path, *words: str, script: str = SCRIPT) -> tuple[set[str], str]:
    """The modules that this command has loaded, and what it has printed."""
    with (tmp_path / "modules").open("w+") as result:
        done = subprocess.run(
            [sys.executable, "-c", script, *words],
            env={**machine.environment, "RESULT": str(result.fileno())},
            pass_fds=[result.fileno()],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        result.seek(0)
        found: list[str] = json.load(result)
    return set(found), done.stdout


def too_much(loaded: set[str], ours: set[str]) -> list[str]:
    """What of it is not named above."""
    strangers = {
        name for name in loaded if name.partition(".")[0] in ("domains", "drivers", "hypervisor")
    } - ours
    packages = {name.partition(".")[0] for name in loaded} - {"domains", "drivers", "hypervisor"}
    of_others = {
        name
        for name in packages - OTHERS - sys.stdlib_module_names
        if not name.startswith(("_cython", "cython_runtime"))  # which C extensions make
    }
    return sorted(strangers | of_others | packages & COSTLY)


def test_commands_on_domains_load_what_is_named_and_nothing_else(
    shared_machine: Machine, tmp_path: Path
) -> None:
    file = tmp_path / "x.cfg"
    file.write_text('name = "x"\nkernel = "python:domains.guests.idle:Idle"\nmemory = 8\n')
    for words, ours in (
        (["create", str(file)], OURS | DESCRIPTIONS),
        (["list"], OURS),
        (["destroy", "x"], OURS),
    ):
        assert too_much(loaded_by(shared_machine, tmp_path, *words)[0], ours) == []


@pytest.mark.parametrize(("option", "loads"), [("--help", "typer"), ("--json", "json")])
def test_a_command_that_loads_more_is_found(
    shared_machine: Machine, tmp_path: Path, option: str, loads: str
) -> None:
    assert loads in too_much(loaded_by(shared_machine, tmp_path, "list", option)[0], OURS)


def test_a_list_takes_next_to_nothing_and_is_the_same(shared_machine: Machine, tmp_path: Path) -> None:
    shared_machine.guest(
        tmp_path, "class Probe(Guest):\n    def main(self): self.kernel.sleep(1e6)", name="z\u00e4h"
    )
    loaded, quick = loaded_by(shared_machine, tmp_path, "list", script=QUICK_SCRIPT)
    assert too_much(loaded, QUICK) == []
    assert loaded & NEVER_QUICK == set()
    _, full = loaded_by(shared_machine, tmp_path, "list")
    assert without_times(quick) == without_times(full)
    assert "z\u00e4h" in quick
    named = ("list", "--machine", shared_machine.name)
    assert without_times(
        loaded_by(shared_machine, tmp_path, *named, script=QUICK_SCRIPT)[1]
    ) == without_times(full)
    shared_machine.destroy("z\u00e4h")


@pytest.mark.parametrize(
    "words", [["list", "-c"], ["list", "x"], ["list", "--machine", "not-there"], ["info"], []]
)
def test_the_quick_way_leaves_the_rest_to_the_others(words: list[str]) -> None:
    assert answer(words) is None


def without_times(text: str) -> list[list[str]]:
    """The cells of `list` besides those that change all the time: state and CPU time."""
    return [[*line.split()[:4], *line.split()[6:]] for line in text.splitlines()]
