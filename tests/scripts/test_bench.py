"""scripts/bench: every figure has its yardstick, what is asked for is understood, and no machine stays behind."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.guests.compiled import NEEDS, can_compile
from tests.machines import REPOSITORY

SECONDS = 200
FIELDS = {"name", "value", "unit", "yardstick", "yardstick_value", "ratio"}
HALVES = [
    [
        "hypercall_rtt",
        "l1_validation",
        "mmu_update_batch",
        "mmu_update_single",
        "event_rtt",
        "grant_copy",
        "machine_start",
        "command_list",
        "command_create",
        "command_destroy",
    ],
    [
        "domain_create",
        "domain_destroy",
        "domain_private_memory",
        "domains_alive",
        "block_read",
        "block_iops",
        "block_fairness",
        "store_write",
        "store_read",
        "net_throughput",
        "net_pps",
        "net_rtt",
    ],
]
"""The figures that take little time, in two halves that can be measured side by side."""
WAYS = ("direct", "shadow", "nested")
PAGING = [
    f"paging_{work}_{way}"
    for work in ("page_fault", "syscall", "pte_store", "context_switch", "mips")
    for way in WAYS
]
NEEDS_A_COMPILER = (pytest.mark.needs_headers, pytest.mark.skipif(not can_compile(), reason=NEEDS))


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a short name, for there are sockets in it."""
    return tmp_path_factory.mktemp("b")


def bench(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """scripts/bench, with a runtime folder of the test's own."""
    runtime = folder / "r"
    runtime.mkdir(mode=0o700, exist_ok=True)
    return subprocess.run(
        [REPOSITORY / "scripts" / "bench", *words],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd="/",
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime), "BENCH_TEST": str(folder)},
    )


def left_of(folder: Path) -> list[str]:
    """Processes that were started with this test's environment and still run."""
    mark = f"BENCH_TEST={folder}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environ.read_bytes().split(b"\0"):
                found.append((environ.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    "names",
    [*HALVES, *(pytest.param(names, marks=NEEDS_A_COMPILER) for names in (PAGING, ["command_run"]))],
    ids=["calls", "domains", "paging", "run"],
)
def test_each_figure_comes_with_its_yardstick_and_leaves_no_process(folder: Path, names: list[str]) -> None:
    done = bench(folder, "--quick", "--json", *names)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert {figure["name"] for figure in figures} == set(names)
    for figure in figures:
        assert set(figure) >= FIELDS
        assert figure["value"] > 0
        assert figure["yardstick_value"] > 0
        assert figure["ratio"] > 0
        assert min(len(figure["unit"]), len(figure["yardstick"])) > 0
    assert left_of(folder) == []
    assert list((folder / "r").rglob("*.*")) == []


def test_a_table_has_a_row_for_each_figure_that_a_beginning_names(folder: Path) -> None:
    done = bench(folder, "--quick", "--markdown", "mmu_update")
    assert done.returncode == 0, done.stderr
    header, line, *rows = done.stdout.split("\n\n")[0].splitlines()
    assert header.startswith("| figure | value | ratio | yardstick |")
    assert re.fullmatch(r"(\| --- )+\|", line)
    named = [re.match(r"\| `(\w+)` \|", row) for row in rows]
    assert sorted(name[1] for name in named if name) == ["mmu_update_batch", "mmu_update_single"]
    assert {row.count(" | ") for row in rows} == {header.count(" | ")}


def test_a_name_that_means_nothing_is_a_usage_error(folder: Path) -> None:
    done = bench(folder, "--json", "hypercall_rt")
    assert done.returncode == 2
    assert "there is no figure 'hypercall_rt'" in done.stderr
    assert done.stdout == ""
