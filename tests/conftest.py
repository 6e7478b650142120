"""What every test may ask for: a real machine, checked for leftovers, and the rule that CI skips nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import is_hypothesis_test

from tests.machines import XENCTL, Machine, wait_until

# However the tests were started (nohup, a shell's background job), what they start is to heed these signals.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine of the test's own; at the end nothing of it may be left."""
    machine = Machine()
    try:
        yield machine
    finally:
        machine.stop()


@pytest.fixture
def clean_machine(machine: Machine) -> Iterator[Machine]:
    """A machine whose domains the test ends itself: the census must be clean before it stops."""
    yield machine
    wait_until(machine.census_is_clean, 30, "a clean census")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--steps", type=int, default=None, help="steps of each random test (default: bounded)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what takes long by what it uses, so that `scripts/test --fast` can leave it out. The longest tests, those
    with a time-out of their own, come first: no worker is to begin one when the others are done.
    """
    for item in items:
        module = getattr(item, "module", None)
        if getattr(module, "Machine", None) is Machine or getattr(module, "XENCTL", None) is XENCTL:
            item.add_marker("real_machine")
        drawn = is_hypothesis_test(getattr(item, "obj", None)) or item.nodeid.endswith("::runTest")
        if drawn or "steps" in getattr(item, "fixturenames", ()) or "random" in item.nodeid:
            item.add_marker("random")
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


@pytest.fixture
def steps(request: pytest.FixtureRequest) -> int | None:
    """How many steps a random test takes, if the command line says so."""
    value: int | None = request.config.getoption("--steps")
    return value


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In CI a skipped test is a failed one: what it needs must be installed there (.ci/run)."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("XENOSCOPE_NO_SKIPS") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be: {reason}"
