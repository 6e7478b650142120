"""A fleet in virtual time: the same each time, nothing twice, everything back after a loss, and a place found quickly
among 10,000 hosts.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from domains.fleet.lease import NS_PER_S, Terms
from domains.fleet.placement import Placement
from domains.fleet.simulation import Event, Play, simulate
from domains.fleet.wanted import HostSpec, NoRoom, Wanted

S = NS_PER_S
HOSTS = [HostSpec(f"h{i}", 4096, 4, {"disk": "ssd" if i % 4 == 0 else "hdd"}) for i in range(60)]
DOMAINS = [
    *(Wanted(f"web-{i}", "web", 256) for i in range(300)),
    *(Wanted(f"batch-{i}", "batch", 512, 2, "pack") for i in range(40)),
    *(Wanted(f"db-{i}", "db", 512, labels={"disk": "ssd"}, apart=("db",)) for i in range(8)),
]
EVENTS = [Event(15 * S, "kill", 3), Event(30 * S, "cut", 3, 12 * S), Event(50 * S, "drain", 3)]
PLAY = Play(HOSTS, DOMAINS, EVENTS, 65 * S)


def test_everything_comes_back_in_time_and_nothing_runs_twice() -> None:
    outcome = simulate(PLAY)
    assert (outcome.twice, outcome.unplaced) == (0, 0)
    assert outcome.ready_after is not None
    killed, cut, drained = outcome.events
    for event in outcome.events:
        assert event.domains == event.moves > 0
    for lost in (killed, cut):
        assert lost.all_again is not None
        assert lost.all_again < 15
        assert lost.gap is not None
        assert lost.gap > 0
    assert drained.gap is None


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    first, second, other = (simulate(replace(PLAY, seed=seed)) for seed in (3, 3, 4))
    assert first.events == second.events
    assert first.events != other.events


def test_control_without_a_margin_a_host_that_is_cut_off_runs_something_twice() -> None:
    hasty = replace(PLAY, terms=Terms(5 * S, S, 1), stop=2 * S, start=S // 10)
    assert simulate(hasty).twice > 0


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(NoRoom, match="60 hosts with too little memory"):
        simulate(replace(PLAY, domains=[Wanted("huge", "huge", 5000)]))


class Looks(dict[int, object]):
    """Counts how often a pool looks at one of its hosts."""

    count = 0

    def __getitem__(self, key: int) -> object:
        Looks.count += 1
        return super().__getitem__(key)


def test_a_place_is_found_with_few_looks_among_many_hosts() -> None:
    """Counted, not timed: how many hosts are looked at for each domain."""
    placement = Placement()
    for number in range(5000):
        placement.add_host(HostSpec(f"h{number}", 1024, 4))
    for pool in placement._pools.values():
        pool._hosts = Looks(pool._hosts)  # type: ignore[assignment]
    Looks.count = 0
    for number in range(5000):
        placement.place(Wanted(f"s{number}", "s", 64))
        placement.place(Wanted(f"p{number}", "p", 64, strategy="pack"))
    assert Looks.count / 10_000 < 40
