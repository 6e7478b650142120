"""What the README shows is what happens: its guest is run, its description of Linux is read, and no link leads nowhere."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from domains.dom0.toolstack.xlcfg.load import load
from domains.xenctl.commands import COMMANDS
from tests.machines import REPOSITORY, XENCTL, Machine

README = (REPOSITORY / "README.md").read_text()
PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
TEST_NAME = re.compile(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`")


def block(language: str, containing: str) -> str:
    """The one fenced block of the README in that language that contains a text."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (text,) = [text for text in found if containing in text]
    return str(text)


@pytest.fixture
def runtime() -> Iterator[dict[str, str]]:
    """An environment whose machines are in a folder of this test's own, empty at the end; its path is short, as sockets need."""
    with tempfile.TemporaryDirectory(prefix="xg-") as folder:
        yield {**os.environ, "XDG_RUNTIME_DIR": folder, "PYTHONPATH": str(REPOSITORY)}
        assert not list(Path(folder).glob("xenoscope/*"))


def test_the_guest_of_the_readme_prints_what_the_readme_says(tmp_path: Path, runtime: dict[str, str]) -> None:
    source = block("python", "class First")
    assert len(source.splitlines()) <= 20
    (tmp_path / "first.py").write_text(source)
    command, _, promised = block("console", "$ ").partition("\n")
    words = command.removeprefix("$ ").split()
    assert words[0] == ".venv/bin/xenctl"
    done = subprocess.run(
        [*XENCTL, *words[1:]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env=runtime,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert without_numbers(done.stdout) == without_numbers(promised)


GUIDE = (REPOSITORY / "docs" / "writing-a-guest.md").read_text()
SHOWN = {"Clock": ["data/mood is curious", "tick"], "OnDemand": ["there now"]}
"""What the guests of the guide print, in any order."""


@pytest.mark.parametrize("name", SHOWN)
def test_the_guests_of_the_guide_run(name: str, tmp_path: Path, runtime: dict[str, str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    (source,) = [text for text in blocks if f"class {name}(" in text]
    (tmp_path / "guest.py").write_text(source)
    done = subprocess.run(
        [*XENCTL, "run", f"python:guest.py:{name}", "--memory", "16"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env=runtime,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(done.stdout.split("\n")) == sorted([*SHOWN[name], ""])


def test_the_two_guests_of_the_guide_share_a_page(tmp_path: Path) -> None:
    """Each says on its console what the other has written into the page."""
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    (source,) = [text for text in blocks if "class Giver(" in text]
    (tmp_path / "sharing.py").write_text(source)
    machine = Machine()  # one of its own: the guests are told each other's numbers, 1 and 2
    try:
        for name, peer in (("Giver", 2), ("Taker", 1)):
            text = f"name = '{name}'\nkernel = 'python:sharing.py:{name}'\nmemory = 16\nextra = '{peer}'\n"
            # Preserved: a console that attaches after the end still shows what was said.
            text += "on_poweroff = 'preserve'\n"
            assert machine.create(tmp_path, text, "--paused").returncode == 0
        for name in ("Giver", "Taker"):
            machine.xenctl("unpause", name)
        said = [first_line(machine, name) for name in ("Giver", "Taker")]
    finally:
        machine.stop()
    assert said == ["the taker wrote: thanks\n", "the giver wrote: for you alone\n"]


def first_line(machine: Machine, name: str) -> str:
    """What the domain's console shows first, as soon as it does."""
    console = subprocess.Popen(
        [*XENCTL, "console", name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=machine.environment,
    )
    try:
        assert console.stdout is not None
        return console.stdout.readline()
    finally:
        console.kill()
        console.communicate()


def without_numbers(text: str) -> str:
    """Frame numbers differ from machine to machine."""
    return re.sub(r"0x[0-9a-f]+", "0x…", text.replace("\r", ""))


def test_the_description_of_linux_is_one_that_the_toolstack_reads(tmp_path: Path) -> None:
    script = block("sh", "cat > linux.cfg")
    heredoc = re.search(r"^cat > linux\.cfg <<END\n.*?^END\n", script, re.MULTILINE | re.DOTALL)
    assert heredoc is not None
    subprocess.run(["bash", "-c", heredoc.group()], cwd=tmp_path, check=True)
    config = load(tmp_path / "linux.cfg")
    assert (config.name, config.cmdline) == ("linux", "console=hvc0")
    assert Path(config.kernel).name == "vmlinuz"


def test_the_commands_of_the_readme_are_there() -> None:
    for script in re.findall(r"^(scripts/\S+)", README, re.MULTILINE):
        assert os.access(REPOSITORY / script, os.X_OK), script


def test_the_page_on_xenctl_names_every_command() -> None:
    page = (REPOSITORY / "docs" / "xenctl.md").read_text()
    unnamed = [name for name in COMMANDS if f"`{name}" not in page]
    assert unnamed == [], "docs/xenctl.md does not tell what these commands do"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    for file, name in TEST_NAME.findall(page.read_text()):
        path = REPOSITORY / file
        assert path.is_file(), file
        assert not name or f"def {name}(" in path.read_text(), f"{file}::{name}"
