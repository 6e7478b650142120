"""The pytest plugin: options, fixtures, and what happens when a test begins, ends and fails (docs/testing-guests.md).

pytest loads this module in every run of every project that has Xenoscope installed, so it imports nothing else of the
project before a fixture is used.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from domains.testing.watch import Watch

WATCH: Final = pytest.StashKey[Watch]()
SCOPES: Final = ("function", "class", "module", "package", "session")
LARGEST_SEED: Final = (1 << 63) - 1
LONGEST: Final = 1e9
"""Seconds; the host can wait for so long."""


def seed(text: str) -> int:
    """The value of --xen-seed: a number, or `random`, which draws one."""
    if text == "random":
        return random.SystemRandom().getrandbits(32)
    number = int(text)
    if not 0 <= number <= LARGEST_SEED:
        raise ValueError(f"{number} is not from 0 to {LARGEST_SEED}")
    return number


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, on the command line and in the ini file."""
    group = parser.getgroup("xenoscope", "Xen machines for tests")
    group.addoption(
        "--xen-timeout",
        type=float,
        metavar="SECONDS",
        help="how long a guest may take for what a test expects of it (default: ini xen_timeout, else 30)",
    )
    group.addoption(
        "--xen-seed",
        type=seed,
        metavar="N|random",
        help="machines repeat themselves: what happens by chance follows from this number",
    )
    group.addoption("--xen-keep", action="store_true", help="leave the machines of failed tests running")
    parser.addini("xen_timeout", "as --xen-timeout", default="30")
    parser.addini(
        "xen_machine_scope",
        "how long a machine is used: for one function, class, module …",
        default="function",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The mark, and one watch for this process."""
    about = "xen(memory, cpus, sched, uplinks, slice_ns, seed): the machine that xen_machine is for this test"
    config.addinivalue_line("markers", about)
    config.stash[WATCH] = Watch()
    if config.getini("xen_machine_scope") not in SCOPES:
        raise pytest.UsageError(f"xen_machine_scope must be one of {', '.join(SCOPES)}")
    try:
        seconds = timeout_of(config)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST:
        raise pytest.UsageError(f"xen_timeout must be a number of seconds above 0, {LONGEST:.0f} at most")


def pytest_report_header(config: pytest.Config) -> str | None:
    """The seed, where machines have one."""
    number = config.getoption("xen_seed")
    return None if number is None else f"xen: --xen-seed {number}"


def pytest_unconfigure(config: pytest.Config) -> None:
    """The run is over: nothing of a machine is left but what is to stay."""
    config.stash[WATCH].close()


# --- fixtures ------------------------------------------------------------------------------------------


def machine_scope(fixture_name: str, config: pytest.Config) -> Any:
    """How long `xen_machine` lasts."""
    return config.getini("xen_machine_scope")


def timeout_of(config: pytest.Config) -> float:
    """Seconds that tests wait if they do not say."""
    given = config.getoption("xen_timeout")
    return float(config.getini("xen_timeout") if given is None else given)


def start(config: pytest.Config, hardware: Any) -> Any:
    """A machine that ends with this process, and with the one that has it run tests (pytest-xdist)."""
    from domains.testing import machine

    pids = [os.getpid()]
    if os.environ.get("PYTEST_XDIST_WORKER"):
        pids.append(os.getppid())
    return machine.start(config.stash[WATCH], hardware, timeout_of(config), pids)


@pytest.fixture(scope=machine_scope)
def xen_machine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A running machine (domains/testing/machine.py), which ends with the test, or with what xen_machine_scope says."""
    from domains.testing.machine import hardware_of

    mark = request.node.get_closest_marker("xen")
    wanted = {} if mark is None else mark.kwargs
    machine = start(request.config, hardware_of(request.config.getoption("xen_seed"), wanted))
    yield machine
    machine.close()


@pytest.fixture
def xen_domain(request: pytest.FixtureRequest, xen_machine: Any) -> Iterator[Callable[..., Any]]:
    """Makes guests on the test's machine: `xen_domain(kernel, memory=…, cmdline=…, …)` (domains/testing/machine.py, create).
    They end with the test. Relative paths begin where the test's file is.
    """
    made: list[Any] = []

    def make(kernel: str | Path, **settings: Any) -> Any:
        __tracebackhide__ = True
        domain = xen_machine.create(kernel, **{"folder": request.path.parent} | settings)
        made.append(domain)
        return domain

    yield make
    for domain in reversed(made):
        xen_machine.forget(domain)


@pytest.fixture(scope="session")
def xen_snapshot(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Boots a guest once for many tests: `xen_snapshot(kernel, until="login:", memory=…, …)` (domains/testing/snapshot.py, take),
    on a machine of its own, which ends with the session. Relative paths begin at pytest's rootdir.
    """
    machines: list[Any] = []

    def take(kernel: str | Path, **settings: Any) -> Any:
        from domains.testing import snapshot

        def begin(hardware: Any) -> Any:
            machines.append(start(request.config, hardware))
            return machines[-1]

        chosen = {"folder": request.config.rootpath, "seed": request.config.getoption("xen_seed")} | settings
        return snapshot.take(begin, kernel, **chosen)

    yield take
    for machine in machines:
        machine.close()


@pytest.fixture
def xen_fork() -> Iterator[Callable[..., Any]]:
    """Makes guests that go on from a snapshot: `xen_fork(snapshot)` (domains/testing/snapshot.py). They end with the test."""
    made: list[tuple[Any, Any]] = []

    def make(snapshot: Any, **settings: Any) -> Any:
        __tracebackhide__ = True
        domain = snapshot.fork(**settings)
        made.append((snapshot.machine, domain))
        return domain

    yield make
    for machine, domain in reversed(made):
        machine.forget(domain)


@pytest.fixture
def xen_topology(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Brings up topologies: `xen_topology("shop.yaml")`, or one made of `Topology` (domains/testing/topology.py), each on a
    machine of its own, which ends with the test; or with `snapshot` on that one's, where its domains may go on from it.
    """
    machines: list[Any] = []
    topologies: list[Any] = []

    def bring_up(source: Any, may_end: tuple[str, ...] = ("poweroff",), snapshot: Any = None) -> Any:
        from domains.testing.topology import XenTopology

        def begin(hardware: Any) -> Any:
            if snapshot is not None:
                return snapshot.machine
            number = request.config.getoption("xen_seed")
            chosen = hardware if number is None else hardware._replace(seed=number, cpus=1)
            machines.append(start(request.config, chosen))
            return machines[-1]

        named = request.path.parent / source if isinstance(source, str | Path) else source
        topology = XenTopology(named, begin, may_end)
        if snapshot is not None:
            topologies.append(topology)
        return topology

    yield bring_up
    for topology in topologies:
        topology.close()
    for machine in machines:
        machine.close()


# --- what happens when a test begins, ends and fails ---------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """What happened before is not this test's affair."""
    item.config.stash[WATCH].forget()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """While the test's body runs it is told at once if a guest dies; at its end, if one has."""
    __tracebackhide__ = True
    watch = item.config.stash[WATCH]
    watch.begin()
    try:
        yield
    finally:
        watch.end()
    watch.settle()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed is told, once, what its machines have to say."""
    report = yield
    watch = item.config.stash[WATCH]
    uses = any(name.startswith("xen_") for name in getattr(item, "fixturenames", ()))
    if report.failed and uses and not watch.failed:
        watch.failed = True
        from domains.testing.evidence import sections

        for machine in list(watch.machines):
            report.sections += sections(machine, keep=item.config.getoption("xen_keep"))
    return report
