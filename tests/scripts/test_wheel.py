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

from tests.domains.testing.projects import all_end, kill_session, machines_of, places_of, runtime
from tests.machines import REPOSITORY

PACKAGES = ("hypervisor", "domains", "drivers")
EXAMPLE = REPOSITORY / "docs" / "examples" / "guest-tests"
SECONDS = 60


def own_environment(**others: str) -> dict[str, str]:
    """The environment of a command that sees nothing of the source tree, or of the pytest that runs this."""
    hidden = ("PYTHONPATH", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST")
    return {name: value for name, value in os.environ.items() if name not in hidden} | others


def run(*words: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command that sees nothing of the source tree."""
    return subprocess.run(
        list(map(str, words)),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd=cwd,
        env=own_environment(**environment),
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


UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
"""As a container has it that drops all capabilities; who is not root has none."""


def test_a_guest_runs_where_nobody_has_any_privilege(environment: Path, tmp_path: Path) -> None:
    under = UNPRIVILEGED if os.getuid() == 0 else ()
    status = run(*under, "cat", "/proc/self/status", cwd=tmp_path)
    assert "CapEff:\t0000000000000000" in status.stdout
    guest = (environment / "xenctl", "run", "python:domains.guests.hello:Hello", "--memory", "16")
    options = ("--expect", "hello from domain 1", "--timeout", "30", "--junit", tmp_path / "result.xml")
    done = run(*under, *guest, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'failures="0" errors="0"' in (tmp_path / "result.xml").read_text()


@pytest.fixture(scope="module")
def project(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example project, installed beside the wheel; the folder with its tests."""
    folder = tmp_path_factory.mktemp("project") / "guest-tests"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    pip = (sys.executable, "-m", "pip", "--python", environment / "python", "install", "--quiet")
    done = run(*pip, "--no-deps", "--no-build-isolation", "--no-index", folder, cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "keyvalue.py").unlink()
    return folder


@pytest.mark.timeout(300)
def test_the_example_projects_tests_pass_side_by_side(environment: Path, project: Path) -> None:
    with runtime() as folder:
        done = run(environment / "python", "-m", "pytest", "-n", "4", cwd=project, XDG_RUNTIME_DIR=folder)
        assert done.returncode == 0, done.stdout
        assert "6 passed" in done.stdout
        assert "warning" not in done.stdout.lower(), done.stdout
        assert places_of(folder) == []


@pytest.mark.timeout(300)
def test_a_kill_of_the_example_projects_pytest_leaves_nothing(environment: Path, project: Path) -> None:
    words = [str(environment / "python"), "-m", "pytest", "-n", "4"]
    with runtime() as folder:
        running = subprocess.Popen(
            words,
            cwd=project,
            env=own_environment(XDG_RUNTIME_DIR=folder),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            pids = machines_of(folder, 1)
            running.kill()
            running.wait()
            all_end(folder, pids)
        finally:
            kill_session(running)
