"""What every test may ask for: a real machine, checked for leftovers, and the rule that CI skips nothing."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator

import pytest
from hypothesis import is_hypothesis_test

from tests.machines import XENCTL, Machine, wait_until

# However the tests were started (nohup, a shell's background job), what they start is to heed these signals.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """A test that leaves another environment is told so, for it changes what the others of its worker see."""
    before = dict(os.environ)
    yield
    left = {name for name, _ in before.items() ^ os.environ.items()} - {"PYTEST_CURRENT_TEST"}
    os.environ.update(before)
    for name in left - before.keys():
        del os.environ[name]
    assert not left, "what the test has changed in the environment"


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
    parser.addoption(
        "--seed", type=int, default=None, help="what random tests draw from (default: drawn anew)"
    )
    parser.addoption(
        "--peer", action="store_true", help="boot Debian's Xen in QEMU, too, which is downloaded"
    )
    parser.addoption("--ray", action="store_true", help="run a fleet on Ray, too, which must be installed")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """One seed for all that tests draw. Workers get it with the options of the process that starts them."""
    config.option.seed_is_given = getattr(config.option, "seed_is_given", config.option.seed is not None)
    if config.option.seed is None:
        config.option.seed = random.SystemRandom().getrandbits(32)
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(config.option.seed)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what takes long by what it uses, so that `scripts/test --fast` can leave it out. The longest tests, those
    with a time-out of their own, come first: no worker is to begin one when the others are done. What boots real Xen is
    there only with --peer, what needs Ray only with --ray.
    """
    for option in ("peer", "ray"):
        if items and not items[0].config.getoption(option):
            items[:] = [item for item in items if not item.get_closest_marker(option)]
    for item in items:
        module = getattr(item, "module", None)
        if getattr(module, "Machine", None) is Machine or getattr(module, "XENCTL", None) is XENCTL:
            item.add_marker("real_machine")
        drawn = is_hypothesis_test(getattr(item, "obj", None)) or item.nodeid.endswith("::runTest")
        if drawn or "steps" in getattr(item, "fixturenames", ()) or "random" in item.nodeid:
            item.add_marker("random")
    if items and items[0].config.option.seed_is_given:
        items[:] = with_seed(items, items[0].config.option.seed)
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


def with_seed(items: list[pytest.Item], seed: int) -> list[pytest.Item]:
    """The tests that are made once for each of some seeds are made for this one."""
    kept: dict[object, pytest.Item] = {}
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is None or "seed" not in callspec.params:
            kept[item] = item
            continue
        callspec.params["seed"] = seed
        kept.setdefault((item.nodeid.partition("[")[0], str(callspec.params)), item)
    return list(kept.values())


@pytest.fixture(autouse=True)
def chance(request: pytest.FixtureRequest) -> random.Random:
    """What a test draws from; Python's own `random` begins with the same numbers. `--seed` draws the same again."""
    seed = f"{request.config.option.seed} {request.node.nodeid}"
    random.seed(seed)
    return random.Random(seed)


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
    if report.failed:
        callspec = getattr(item, "callspec", None)
        seed = (
            item.config.option.seed
            if callspec is None
            else callspec.params.get("seed", item.config.option.seed)
        )
        report.sections.append(("Seed", f"--seed {seed} draws the same again"))
    if report.skipped and os.environ.get("XENOSCOPE_NO_SKIPS") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be: {reason}"
