"""What guests say by console_io is harmless on a terminal, and cannot push everything else out of the log."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hypervisor.domain.guest_console import BURST, BYTES_PER_SECOND, NS_PER_S, GuestConsole
from hypervisor.domain.log import MAX_LINE, Log
from hypervisor.machine.counters import MAX_KINDS, Counters


@given(st.lists(st.binary(max_size=2000), max_size=5))
def test_a_line_holds_nothing_that_a_terminal_obeys(texts: list[bytes]) -> None:
    console = GuestConsole()
    for text in texts:
        for line in console.write(text, 0):
            assert line.replace("\t", "").isprintable()
            assert line.isascii()
            assert len(line) <= MAX_LINE + 2000


def test_a_guest_that_never_stops_talking_is_cut_short_and_told_of() -> None:
    console = GuestConsole()
    flood = b"x" * 99 + b"\n"
    said = [line for _ in range(10_000) for line in console.write(flood, 0)]
    assert sum(len(line) + 1 for line in said) <= BURST
    later = console.write(flood, NS_PER_S)
    assert later == [f"{10_000 - len(said)} lines suppressed", "x" * 99]
    said = [line for _ in range(10_000) for line in console.write(flood, NS_PER_S)]
    assert sum(len(line) + 1 for line in said) <= BYTES_PER_SECOND


def test_a_guest_that_says_little_loses_nothing() -> None:
    console = GuestConsole()
    for second in range(1000):
        assert console.write(b"a line\n", second * NS_PER_S) == ["a line"]


def test_the_log_holds_nothing_that_a_terminal_obeys() -> None:
    log = Log(Counters())
    log.line("crashed: \x1b[2J\x9b31m\u202e\ttab")
    assert log.read() == b"crashed: ?[2J?31m?\ttab\n"


def test_what_one_domain_is_refused_does_not_hide_what_another_is() -> None:
    """Once for each domain and kind."""
    log = Log(Counters())
    for _ in range(3):
        for domid in (1, 2):
            log.once(domid, "mmu_update: EINVAL", "mmu_update: a reason")
    assert log.read() == b"d1: mmu_update: a reason\nd2: mmu_update: a reason\n"


def test_no_domain_makes_the_counters_grow_without_end() -> None:
    counters = Counters()
    for kind in range(10 * MAX_KINDS):
        counters.add(f"kind {kind}", 7)
    assert len(counters.of_domain(7)) == MAX_KINDS + 1
    counters.forget(7)
    assert counters.of_domain(7) == {}
