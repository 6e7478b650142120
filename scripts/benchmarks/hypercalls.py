"""What a hypercall costs: alone, among many domains, and with page-table updates in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from hypervisor.machine.paging import TABLE_ENTRIES
from scripts.benchmarks.echo import Echo
from scripts.benchmarks.figure import Figure, Sizes, compare
from scripts.benchmarks.machine import IDLE, Machine, description

ECHO = "pyzmq echo, DEALER to ROUTER over ipc, between two processes"
MICROSECONDS = 1e6


def hypercall_rtt(sizes: Sizes) -> Iterator[Figure]:
    """xen_version from a Python guest, with one domain alive besides Dom0."""
    with Machine() as machine, Echo() as echo:
        yield null_call(machine, echo, "hypercall_rtt", sizes)


def hypercall_rtt_250(sizes: Sizes) -> Iterator[Figure]:
    """The same with 250 domains alive."""
    with Machine() as machine, Echo() as echo:
        for _ in range(sizes.domains - 1):
            machine.create(description(IDLE, 8))
        yield null_call(machine, echo, "hypercall_rtt_250", sizes)


def null_call(machine: Machine, echo: Echo, name: str, sizes: Sizes) -> Figure:
    """The figure `name`: an empty hypercall beside the echo."""
    guest = machine.guest("Hypercalls")
    return compare(
        name,
        "µs",
        ECHO,
        lambda: float(guest.ask("null_calls", sizes.calls)),
        lambda: echo.round_trip(sizes.calls),
        sizes.rounds,
        MICROSECONDS,
    )


def mmu_update(sizes: Sizes) -> Iterator[Figure]:
    """mmu_update of a Python guest on its own L1 table: one request a call, then 512."""
    with ExitStack() as stack:
        machine = stack.enter_context(Machine())
        echo = stack.enter_context(Echo())
        guest = machine.guest("Hypercalls")

        def single() -> float:
            return float(guest.ask("single", sizes.calls))

        def entries_a_second(command: str, calls: int, entries: int) -> float:
            return entries / float(guest.ask(command, calls))

        yield compare(
            "mmu_update_single",
            "µs",
            ECHO,
            single,
            lambda: echo.round_trip(sizes.calls),
            sizes.rounds,
            MICROSECONDS,
        )
        yield compare(
            "mmu_update_batch",
            "entries/s",
            "the same entries, one a hypercall",
            lambda: entries_a_second("batch", max(2, sizes.calls // 10), TABLE_ENTRIES),
            lambda: entries_a_second("single", sizes.calls, 1),
            sizes.rounds,
        )
