"""Placement: nothing is given twice, every wish is kept, what can be placed is placed, and a choice among many hosts is quick.

Control: in test_a_plan_that_does_not_fit_changes_nothing the domains that do fit are placed once the one that does not is left
out.
"""

from __future__ import annotations

import random

import pytest

from domains.fleet.placement import Placement, in_order
from domains.fleet.wanted import HostSpec, NoRoom, Wanted


def fleet(*memory: int, cpus: int = 4, **labels: str) -> Placement:
    """Hosts h1, h2 … with so much memory."""
    placement = Placement()
    for number, amount in enumerate(memory, 1):
        placement.add_host(HostSpec(f"h{number}", amount, cpus, labels))
    return placement


def test_spread_goes_to_the_least_loaded_and_away_from_its_kind() -> None:
    placement = fleet(1000, 1000, 1000)
    assert placement.place(Wanted("big", "big", 900)) == "h1"
    assert [placement.place(Wanted(f"w{i}", "w", 10)) for i in range(3)] == ["h2", "h3", "h1"]
    assert placement.place(Wanted("other", "other", 10)) == "h2"


def test_pack_goes_to_the_fullest_that_has_room() -> None:
    placement = fleet(1000, 500, 300)
    places = [placement.place(Wanted(f"p{i}", "p", 200, strategy="pack")) for i in range(7)]
    assert places == ["h3", "h2", "h2", "h1", "h1", "h1", "h1"]


def test_labels_and_cpus_are_kept() -> None:
    placement = fleet(1000)
    placement.add_host(HostSpec("fast", 1000, 1, {"disk": "ssd", "rack": "a"}))
    wanted = Wanted("db", "db", 10, 8, labels={"disk": "ssd"})
    assert placement.place(wanted) == "fast"
    with pytest.raises(
        NoRoom, match=r"no host has room for 10 MiB and 8 vCPUs: .*1 host without the label disk=ssd"
    ):
        placement.place(Wanted("db2", "db", 10, 8, labels={"disk": "ssd"}))
    placement.release("db")
    assert placement.place(Wanted("db2", "db", 10, 8, labels={"disk": "ssd"})) == "fast"


def test_apart_holds_both_ways_and_beside_follows() -> None:
    placement = fleet(1000, 1000)
    assert placement.place(Wanted("a", "a", 10, apart=("b",))) == "h1"
    assert placement.place(Wanted("b", "b", 10)) == "h2"
    assert placement.place(Wanted("c", "c", 900, beside=("a",))) == "h1"
    with pytest.raises(NoRoom, match="with too little memory"):
        placement.place(Wanted("d", "d", 900, beside=("a",)))
    with pytest.raises(NoRoom, match="to be apart from"):
        placement.place(Wanted("e", "b", 10, labels={}, apart=("b",)))


def test_of_its_own_kind_the_first_may_be_anywhere() -> None:
    placement = fleet(100, 100)
    assert {placement.place(Wanted(f"g{i}", "g", 10, beside=("g",))) for i in range(5)} == {"h1"}


def test_a_plan_that_does_not_fit_changes_nothing() -> None:
    placement = fleet(100, 100)
    wanted = [Wanted("small", "s", 60), Wanted("other", "s", 60), Wanted("large", "l", 101)]
    with pytest.raises(NoRoom, match=r"large: no host has room for 101 MiB"):
        placement.place_all(wanted)
    assert not any(host.domains for host in placement.hosts)
    assert placement.place_all(wanted[:2]) == {"small": "h1", "other": "h2"}


def test_what_others_want_to_be_beside_is_placed_first_and_circles_are_refused() -> None:
    rows = [Wanted("c", "c", 900, beside=("w",)), Wanted("w", "w", 10), Wanted("x", "x", 500)]
    assert [one.name for one in in_order(rows)] == ["x", "w", "c"]
    with pytest.raises(ValueError, match="cycle"):
        in_order([Wanted("a", "a", 1, beside=("b",)), Wanted("b", "b", 1, beside=("a",))])


def test_a_closed_host_keeps_what_it_has_and_takes_no_more() -> None:
    placement = fleet(100, 100)
    placement.place(Wanted("a", "a", 10))
    placement.close("h1")
    assert [placement.place(Wanted(f"b{i}", "b", 10)) for i in range(2)] == ["h2", "h2"]
    placement.reopen("h1")
    assert placement.place(Wanted("c", "c", 10)) == "h1"
    assert [wanted.name for wanted in placement.remove_host("h1")] == ["a", "c"]
    assert placement.host_of("a") is None


def test_random_play_gives_nothing_twice_and_finds_room_where_there_is() -> None:
    """Against a look at every host."""
    draw = random.Random(13)
    placement = Placement(2)
    for number in range(30):
        labels = {"zone": draw.choice("ab")}
        placement.add_host(HostSpec(f"h{number}", draw.choice((100, 200, 400)), draw.choice((1, 2)), labels))
    there: dict[str, Wanted] = {}
    for step in range(3000):
        if there and draw.random() < 0.45:
            name = draw.choice(sorted(there))
            del there[name]
            placement.release(name)
            continue
        kind = draw.choice("abcdef")
        wanted = Wanted(
            f"d{step}",
            kind,
            draw.randrange(1, 120),
            draw.randrange(1, 3),
            draw.choice(("spread", "pack")),
            draw.choice(({}, {"zone": "a"})),
            apart=draw.choice(((), (kind,), ("a", "b"))),
        )
        possible = [
            host.spec.name
            for host in placement.hosts
            if host.fits(wanted) and wanted.labels.items() <= host.spec.labels.items()
        ]
        chosen = placement.try_place(wanted)
        assert (chosen in possible) if possible else chosen is None
        if chosen is not None:
            there[wanted.name] = wanted
        check(placement)


def check(placement: Placement) -> None:
    """Nothing is given twice, and what is to be apart is."""
    for host in placement.hosts:
        assert (
            sum(one.memory for one in host.domains.values())
            == host.spec.memory - host.free_memory
            <= host.spec.memory
        )
        assert sum(one.vcpus for one in host.domains.values()) == host.vcpus - host.free_vcpus <= host.vcpus
        assert not [
            one for one in host.domains.values() for k in one.apart if host.kinds.get(k, 0) > (k == one.kind)
        ]
