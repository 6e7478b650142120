"""tlb: exact counts. Negative controls: one process that yields to itself loads no CR3 and misses nothing; a TLB that is not
emptied at hypercalls does not bear out what Xen's place saves.
"""

from collections import Counter
from functools import cache

import pytest

from domains.lab.experiments.tlb import Counted, Replayed, claims, hypercalls, observed, replay, switches
from domains.lab.page_sequence import ENTRIES, Event, Happening, Tlb
from domains.lab.trace import Observer

MISSES = {("native", "small"): 354, ("native", "large"): 1762, ("xen", "small"): 418, ("xen", "large"): 1826}
REPLAYED = {"small": (24, 360, 24), "large": (112, 1768, 1613)}


@cache
def switched(name: str, size: str) -> Counted:
    return switches(name, size)


@cache
def replayed(size: str) -> Replayed:
    return replay(size)


@pytest.mark.parametrize(("name", "size"), MISSES)
def test_misses_of_switches(name: str, size: str) -> None:
    assert switched(name, size).misses == MISSES[name, size]
    assert switched(name, size).flushes == (32 if name == "native" else 0)


@pytest.mark.parametrize("size", REPLAYED)
def test_with_tags_and_without(size: str) -> None:
    one = replayed(size)
    assert (one.touched, one.untagged["misses"], one.tagged["misses"]) == REPLAYED[size]
    assert (one.untagged["flushes"], one.tagged["flushes"]) == (32, 0)


def test_the_hole() -> None:
    assert [hypercalls(switches_space=own).misses for own in (False, True)] == [0, 449]


def test_one_process_alone_misses_nothing() -> None:
    alone = observed("native", Observer, "switch_small")
    assert (alone.misses, alone.flushes) == (0, 0)


def test_what_is_not_emptied_bears_nothing_out() -> None:
    runs = {key: switched(*key) for key in MISSES}
    sequences = {size: replayed(size) for size in REPLAYED}
    still = hypercalls(switches_space=False)
    cost = {key: 1.0 + (key == ("xen", "small")) for key in MISSES}
    found = claims(runs, sequences, {False: still, True: still}, cost)
    assert [claim.holds for claim in found] == [True, True, True, True, True, False, True]


def test_the_least_recently_used_goes() -> None:
    pages = [*range(ENTRIES), 0, ENTRIES, 0, 1]
    events = [Event(Happening.TOUCH, page, 7) for page in pages]
    assert Tlb(tagged=False).replay(events) == Counter(misses=ENTRIES + 2)
    drop = [*events, Event(Happening.DROP, 0, 7), Event(Happening.TOUCH, 0, 7)]
    assert Tlb(tagged=True).replay(drop) == Counter(misses=ENTRIES + 3)
