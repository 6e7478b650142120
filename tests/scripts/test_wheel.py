"""A wheel made from the tree is all that another environment needs: it starts a machine and runs a guest there."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import uuid
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machines import REPOSITORY

PACKAGES = ("hypervisor", "domains", "drivers")
SECONDS = 60


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command that sees nothing of the source tree."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, words)),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd=cwd,
        env=environment,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tree, so that the tree stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / file, folder)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    built = run(*pip, "--wheel-dir", folder / "dist", folder, cwd=folder)
    assert built.returncode == 0, built.stderr
    (made,) = (folder / "dist").glob("xenoscope-*.whl")
    return made


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and, borrowed from this one, its dependencies; the folder of its programs."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
    done = run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def test_the_wheel_has_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tree = {
        str(path.relative_to(REPOSITORY))
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == tree
    assert {
        "domains/guests/hello.cfg",
        "hypervisor/py.typed",
        "domains/py.typed",
        "drivers/py.typed",
    } <= packed


def test_the_environment_takes_its_code_from_the_wheel(environment: Path, tmp_path: Path) -> None:
    for package in PACKAGES:
        found = run(
            environment / "python", "-c", f"import {package}; print({package}.__file__)", cwd=tmp_path
        )
        assert found.stdout.startswith(str(environment.parent)), found


@pytest.fixture
def machine(environment: Path, tmp_path: Path) -> Iterator[str]:
    name = f"w{uuid.uuid4().hex[:10]}"
    yield name
    run(environment / "xenctl", "--machine", name, "stop", cwd=tmp_path)


def test_a_machine_starts_runs_a_guest_and_stops(environment: Path, machine: str, tmp_path: Path) -> None:
    (hello,) = environment.parent.glob("lib/python*/site-packages/domains/guests/hello.cfg")
    xenctl = (environment / "xenctl", "--machine", machine)
    assert run(*xenctl, "start", "--memory", "128", cwd=tmp_path).returncode == 0
    said = run(*xenctl, "create", "-c", hello, cwd=tmp_path)
    assert said.stdout.startswith("hello from domain 1"), said.stderr
    stopped = run(*xenctl, "stop", cwd=tmp_path)
    assert stopped.returncode == 0, stopped.stderr
