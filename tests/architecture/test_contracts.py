"""The import contracts of pyproject.toml refuse what they promise to refuse.

Each case writes one forbidden import into a copy of the tree and lets lint-imports judge it. The control is the
copy without any seed: it is kept, so that a refusal comes from the seed alone.
"""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.machines import REPOSITORY

PACKAGES = ("hypervisor", "domains", "drivers")
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"
ORDER = "one order of rooms"
CIRCLES = "no circles among the parts of a package"
ABI_ALONE = "guests and drivers know of the hypervisor only its ABI"
FRONT = "a front end never imports a back end's code"
BACK = "a back end never imports a front end's code"
ZMQ = "ZeroMQ is spoken only by the wire"
SOCKETS = "state code knows no sockets"
UNDER_TYPE_CHECKING = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import {}"
SEEDS = [
    ("a driver imports Dom0", "drivers/ring.py", "import domains.dom0.uplinks", ORDER),
    ("the kernel imports a driver", "domains/kernel/grants.py", "import drivers.ring", ORDER),
    ("Dom0 imports xenctl", "domains/dom0/uplinks.py", "import domains.xenctl.output", ORDER),
    ("a CPU imports the kernel", "domains/cpu/traps.py", "import domains.kernel.boot", ORDER),
    ("the hypervisor imports a domain", "hypervisor/sched/timers.py", "import domains.kernel.boot", ORDER),
    ("the wire imports the core", "hypervisor/wire/messages.py", "import hypervisor.core", ORDER),
    ("a guest imports the core", "domains/guests/idle.py", "import hypervisor.core", ABI_ALONE),
    (
        "a front imports state code of its back",
        "drivers/block/front.py",
        "import drivers.block.requests",
        FRONT,
    ),
    ("a packet queue imports its front", "drivers/net/fair_queue.py", "import drivers.net.front", BACK),
    ("the kernel speaks ZeroMQ", "domains/kernel/events.py", "import zmq", ZMQ),
    ("a fleet's leases open a socket", "domains/fleet/lease.py", "import socket", SOCKETS),
    (
        "a fleet's placement imports xenctl",
        "domains/fleet/placement.py",
        "import domains.xenctl.output",
        ORDER,
    ),
    ("page types open a socket", "hypervisor/mm/page_types.py", "import socket", SOCKETS),
    (
        "two files import each other",
        "hypervisor/sched/runstate.py",
        "import hypervisor.sched.scheduler",
        CIRCLES,
    ),
    (
        "two files import each other for their types",
        "hypervisor/sched/runstate.py",
        UNDER_TYPE_CHECKING.format("hypervisor.sched.scheduler"),
        CIRCLES,
    ),
]
NEUTRAL = {
    "drivers/": {"ring", "xenbus"},
    "drivers/block/": {"protocol"},
    "drivers/net/": {"checksum", "pcap", "protocol"},
}
"""Files of the drivers that belong to neither end."""
INNER = {"ip", "vxlan"}
"""Packages that belong to one end as a whole."""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the packages and of their contracts."""
    for package in PACKAGES:
        shutil.copytree(
            REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def verdict(tree: Path) -> tuple[int, str]:
    """The exit status and the words of lint-imports on this tree."""
    result = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"],
        cwd=tree,
        env={"PYTHONPATH": str(tree), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    return result.returncode, result.stdout + result.stderr


def test_the_tree_as_it_is_keeps_every_contract(copy: Path) -> None:
    code, text = verdict(copy)
    assert code == 0, text
    assert "0 broken" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "line", "contract"), [seed[1:] for seed in SEEDS], ids=[s[0] for s in SEEDS]
)
def test_a_seeded_violation_is_refused(copy: Path, file: str, line: str, contract: str) -> None:
    seeded = copy / file
    seeded.write_text(f"{seeded.read_text()}\n{line}\n")
    code, text = verdict(copy)
    broken = [words for words in text.splitlines() if "BROKEN" in words]
    assert code == 1, text
    assert any(contract in words for words in broken), broken


def contracts() -> dict[str, dict[str, list[str]]]:
    """The contracts of pyproject.toml by name."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        settings = tomllib.load(file)["tool"]["importlinter"]
    return {contract["name"]: contract for contract in settings["contracts"]}


def test_every_room_has_its_place_in_the_order() -> None:
    placed = {room for layer in contracts()[ORDER]["layers"] for room in layer.split(" | ")}
    rooms = {
        f"{package}.{path.stem}"
        for package in ("hypervisor", "domains")
        for path in (REPOSITORY / package).iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").exists()
    }
    assert placed == rooms | {"drivers"}


def test_every_file_of_a_driver_belongs_to_its_front_or_its_back_or_is_named_neutral() -> None:
    front, back = contracts()[FRONT], contracts()[BACK]
    assert front["source_modules"] == back["forbidden_modules"]
    assert back["source_modules"] == front["forbidden_modules"]
    sides = {name.replace(".", "/") for name in front["source_modules"] + back["source_modules"]}
    files = {
        str(path.relative_to(REPOSITORY).with_suffix(""))
        for folder in NEUTRAL
        for path in (REPOSITORY / folder).iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or path.name in INNER
    }
    assert sides == files - {folder + name for folder, names in NEUTRAL.items() for name in names}


def test_no_import_is_for_type_checkers_alone() -> None:
    """Such an import hides a circle, or makes a reader think of one."""
    hidden = [
        str(file.relative_to(REPOSITORY))
        for package in (*PACKAGES, "scripts")
        for file in (REPOSITORY / package).rglob("*.py")
        if "TYPE_CHECKING" in file.read_text()
    ]
    assert not hidden
