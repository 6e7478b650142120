"""Leases: a host has stopped before the head gives its domains to another, whatever messages and clocks do.

Control: with a head that waits no longer than the host does (a margin that does not pay for drift and stopping), the same
random play finds a domain that runs twice.
"""

from __future__ import annotations

import random

import pytest

from domains.fleet.lease import NS_PER_S, Book, Held, Tenant, Terms

TERMS = Terms(5 * NS_PER_S, NS_PER_S, 2 * NS_PER_S)
S = NS_PER_S


def test_a_lease_ends_at_its_stamp_and_t_on_the_agents_own_clock() -> None:
    book, tenant = Book(TERMS), Tenant(1)
    book.join("h", 1, 100 * S)
    assert tenant.look(7 * S) is Held.WAITING
    until = book.renew("h", 1, 7 * S, 101 * S)
    assert until == 12 * S
    tenant.granted(1, until, 9 * S)
    assert tenant.look(12 * S - 1) is Held.HELD
    assert tenant.look(12 * S) is Held.OVER


def test_the_head_waits_for_t_and_the_margin_from_when_it_heard() -> None:
    book = Book(TERMS)
    book.join("h", 1, 100 * S)
    book.renew("h", 1, 7 * S, 101 * S)
    assert book.due(106 * S - 1) == []
    assert book.due(106 * S) == [("h", Held.LATE)]
    assert book.due(108 * S - 1) == []
    assert book.due(108 * S) == [("h", Held.OVER)]
    assert book.renew("h", 1, 20 * S, 108 * S) is None
    assert book.due(200 * S) == []


def test_a_late_host_that_renews_is_held_again() -> None:
    book = Book(TERMS)
    book.join("h", 1, 0)
    assert book.due(6 * S) == [("h", Held.LATE)]
    assert book.renew("h", 1, 6 * S, 6 * S) == 11 * S
    assert (book.state("h"), book.due(10 * S)) == (Held.HELD, [])
    assert book.due(13 * S) == [("h", Held.OVER)]


def test_grants_that_come_late_twice_or_for_another_incarnation_change_nothing() -> None:
    tenant = Tenant(2)
    tenant.granted(1, 100 * S, 0)
    assert tenant.state is Held.WAITING
    tenant.granted(2, 5 * S, 6 * S)
    assert tenant.state is Held.WAITING
    tenant.granted(2, 12 * S, 7 * S)
    tenant.granted(2, 9 * S, 7 * S)
    assert tenant.until == 12 * S
    assert tenant.look(12 * S) is Held.OVER
    tenant.granted(2, 30 * S, 12 * S)
    assert tenant.look(13 * S) is Held.OVER
    tenant = Tenant(3)
    tenant.refused(2)
    assert tenant.state is Held.WAITING
    tenant.refused(3)
    assert tenant.look(0) is Held.OVER


def test_a_new_incarnation_takes_the_place_of_the_old_one() -> None:
    book = Book(TERMS)
    book.join("h", 1, 0)
    book.join("h", 2, S)
    assert book.renew("h", 1, 0, S) is None
    assert book.due(6 * S) == [("h", Held.LATE)]
    book.leave("h")
    assert (book.due(60 * S), book.next_due) == ([], None)


def test_terms_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="two renewals"):
        Terms(3 * S, 2 * S, S)
    with pytest.raises(ValueError, match="above 0"):
        Terms(3 * S, S, 0)


def least_gap(seed: int, waits: int) -> int:
    """Random play of one host: ns between its end of everything and the instant when a head that waits T + `waits` gives its
    domains away. Messages take up to 20 s or are lost, some come twice; the host's clock shows anything, and runs 0.02 % slow
    or fast; it takes up to 1 s to stop.
    """
    draw = random.Random(seed)
    terms = Terms(TERMS.lasts, TERMS.renew, waits)
    book, tenant = Book(terms), Tenant(1)
    offset, rate = draw.randrange(10**15), 1 + draw.uniform(-2e-4, 2e-4)
    mail: list[tuple[int, str, int]] = []
    book.join("h", 1, 0)
    stopped = given = None
    now = next_renewal = 0
    while stopped is None or given is None:
        shown = offset + int(now * rate)
        if now >= next_renewal:
            next_renewal += terms.renew
            for _ in range(draw.choice((0, 1, 1, 1, 2)) if draw.random() < 0.98 else 0):
                mail.append((now + int(draw.expovariate(1e-9)), "renewal", shown))
        for message in [one for one in mail if one[0] <= now]:
            mail.remove(message)
            if message[1] == "grant":
                tenant.granted(1, message[2], shown)
            elif now < 60 * S and (until := book.renew("h", 1, message[2], now)) is not None:
                mail.append((now + int(draw.expovariate(1e-9)), "grant", until))
        if stopped is None and tenant.look(shown) is Held.OVER:
            stopped = now + draw.randrange(S)
        if tenant.state is Held.WAITING and now > 60 * S:
            stopped = 0
        if any(held is Held.OVER for _, held in book.due(now)):
            given = now
        now += 10_000_000
    return given - stopped


def test_nothing_runs_twice_whatever_messages_and_clocks_do() -> None:
    gaps = [least_gap(seed, 2 * S) for seed in range(40)]
    assert min(gaps) > 0


def test_control_a_head_that_waits_too_little_runs_something_twice() -> None:
    assert min(least_gap(seed, 1) for seed in range(40)) < 0
