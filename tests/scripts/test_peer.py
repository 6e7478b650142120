"""scripts/bench peer: what is asked for, what is said where something is missing, and how commands are run and timed.

What boots Debian's Xen in QEMU runs only with `--peer`, for it downloads 100 MB and takes minutes.
"""

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from scripts.benchmarks.__main__ import FIGURES, asked_for
from scripts.benchmarks.figure import Unavailable
from scripts.benchmarks.peer.images import HERE, Tree
from scripts.benchmarks.peer.linux import Guest, Measure, figures, found_in
from scripts.benchmarks.peer.packages import libraries
from scripts.benchmarks.peer.rows import FAMILIES, GOALS
from tests.guests.compiled import NEEDS, can_compile, gcc
from tests.machines import REPOSITORY

SECONDS = 100
LIFE = ["peer_run", "peer_create", "peer_list", "peer_destroy"]
"""The cheapest rows that need real Xen."""


def bench(folder: Path, *tools: str) -> subprocess.CompletedProcess[str]:
    """`scripts/bench peer` on a host that has only these tools, and an empty cache."""
    for tool in tools:
        where = shutil.which(tool)
        assert where is not None
        (folder / tool).symlink_to(where)
    return subprocess.run(
        [sys.executable, "-m", "scripts.benchmarks", "peer"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "PATH": str(folder), "XENOSCOPE_CACHE": str(folder / "cache")},
    )


def test_real_xen_is_booted_only_by_name() -> None:
    assert FAMILIES.keys() <= FIGURES.keys()
    assert not FAMILIES.keys() & set(asked_for([]))
    assert asked_for(["peer"]) == list(FAMILIES)
    assert asked_for(["peer_list"]) == ["peer_list"]


def test_each_row_has_a_goal() -> None:
    assert GOALS.keys() == FAMILIES.keys()


@pytest.mark.needs_headers
@pytest.mark.skipif(not can_compile(), reason=NEEDS)
def test_each_row_that_cannot_be_measured_says_why_in_a_line(tmp_path: Path) -> None:
    done = bench(tmp_path, "gcc", "as", "ld")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert sorted(line.split(": ")[1] for line in lines) == sorted(FAMILIES)
    assert {line.split(": ")[0] for line in lines} == {"not measured"}
    assert {line.split(": ")[2].split()[0] for line in lines} == {"needs"}
    assert not (tmp_path / "cache").exists()


def test_without_a_compiler_each_row_says_so(tmp_path: Path) -> None:
    done = bench(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [f"not measured: {name}: {NEEDS}" for name in FAMILIES]


def test_of_all_that_xen_depends_on_its_tools_libraries_are_fetched() -> None:
    closure = "xen-utils-4.20\n  Depends: libxencall1\nlibxencall1\nlibssl3\npython3\nzlib1g\nlibc6\nlibc6\nlibyajl2\n"
    assert libraries(closure) == ["libc6", "libxencall1", "libyajl2", "zlib1g"]


def test_an_initramfs_has_each_folder_once_and_before_what_lies_in_it() -> None:
    tree = Tree()
    tree.file("usr/lib/one", b"1")
    tree.link("usr/lib/two", "one")
    tree.folder("usr")
    octets = tree.finish()
    names = [octets.find(b"%s\0" % name) for name in (b"usr", b"usr/lib", b"usr/lib/one", b"usr/lib/two")]
    assert names == sorted(names)
    assert -1 not in names
    assert octets.count(b"usr\0") == 1


def test_the_guests_are_the_same_on_both_sides_but_for_their_devices() -> None:
    guest = Guest("cpu,disk", parameters="quiet", disk=True, vif=True)
    ours, theirs = guest.text("disk,raw,xvda,r", ""), guest.text("phy:/dev/vda,xvda,r", "bridge=xenbr0")
    differ = [
        lines for lines in zip(ours.splitlines(), theirs.splitlines(), strict=True) if len(set(lines)) > 1
    ]
    assert [line.split(" = ")[0] for line, _ in differ] == ["disk", "vif"]
    assert 'cmdline = "console=hvc0 quiet task=cpu,disk"' in ours.splitlines()
    assert not {"disk", "vif"} & {line.split(" = ")[0] for line in Guest().text("", "").splitlines()}


def test_what_a_guest_has_found_is_told_from_what_its_kernel_says() -> None:
    said = "[ 1.0] Run /init\r\npeer: fork 12.5\r\n[ 2.0] peer: fork 1\r\npeer: fork 13\r\npeer: alu 2.0\npeer: done\r\n"
    assert found_in(said) == {"fork": [12.5, 13.0], "alu": [2.0]}
    with pytest.raises(Unavailable, match="/dev/xvda: No such file"):
        found_in("peer: alu 2.0\npeer: failed /dev/xvda: No such file or directory\npeer: done\n")


def test_a_figure_is_the_median_of_turns_and_of_their_ratios() -> None:
    measures = {"peer_tcp": Measure("tcp", "MiB/s", 1, rate=True), "peer_ping": Measure("ping", "ms", 1e-6)}
    ours = {"tcp": [1e9, 2e9, 4e9], "ping": [4e6]}
    theirs = {"tcp": [1e9], "ping": [2e6]}
    slow = {"tcp": [8e9], "ping": [12e6]}
    tcp, ping = figures(measures, [(ours, theirs), (ours, theirs), (slow, slow)])
    assert (tcp.value, tcp.yardstick_value, tcp.ratio, tcp.unit) == (0.5, 1, 0.5, "MiB/s")
    assert (ping.value, ping.yardstick_value, ping.ratio, ping.unit) == (4, 2, 2, "ms")


# --- the agent ---------------------------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[IO[bytes]]:
    """The agent of Dom0, on this host, at the other end of a terminal."""
    if not can_compile():
        pytest.skip(NEEDS)
    gcc("-O2", "-o", tmp_path / "agent", HERE / "agent.c")
    ours, theirs = pty.openpty()
    with subprocess.Popen([tmp_path / "agent", os.ttyname(theirs)]) as process:
        with os.fdopen(ours, "r+b", buffering=0) as end:
            assert end.readline() == b"ready\n"
            yield end
        process.kill()
    os.close(theirs)


def asked(agent: IO[bytes], text: str, command: str) -> tuple[float, int, bytes]:
    agent.write(f"{text}\t{command}\n".encode())
    nanoseconds, status, length = map(int, agent.readline().split())
    said = b""
    while len(said) < length:
        said += agent.read(length - len(said))
    return nanoseconds / 1e9, status, said


@pytest.mark.needs_headers
def test_the_agent_runs_a_command_to_its_end(agent: IO[bytes]) -> None:
    seconds, status, said = asked(agent, "", "echo one; echo two >&2; sleep 0.1; exit 3")
    assert (status, said) == (3, b"one\ntwo\n")
    assert seconds >= 0.1


@pytest.mark.needs_headers
def test_the_agent_ends_a_command_that_has_said_what_it_waits_for(agent: IO[bytes], tmp_path: Path) -> None:
    command = f"echo one; echo ready to go; sleep 1000; touch {tmp_path}/more"
    _, status, said = asked(agent, "ready to go", command)
    assert status == -1
    assert said.startswith(b"one\nready to go")
    assert asked(agent, "", "echo again")[1:] == (0, b"again\n")
    assert not (tmp_path / "more").exists()


@pytest.mark.needs_headers
def test_the_agent_tells_of_a_command_that_ends_without_saying_it(agent: IO[bytes]) -> None:
    assert asked(agent, "never", "echo one")[1:] == (0, b"one\n")


# --- real Xen ----------------------------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.timeout(600)
def test_a_small_domain_lives_on_xen_in_qemu_and_here() -> None:
    done = subprocess.run(
        [REPOSITORY / "scripts" / "bench", "--quick", "--json", *LIFE],
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert [figure["name"] for figure in found] == LIFE
    assert min(min(figure["value"], figure["yardstick_value"], figure["ratio"]) for figure in found) > 0
