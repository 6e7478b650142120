"""The fleet's head: domains start in order, start again elsewhere after a loss, move as a whole, and are never asked for on two
hosts.

Control: test_random_play_… is told of a domain that two hosts would run, when a host that the head has given up says that it is
ready and is believed.
"""

from __future__ import annotations

import random

import pytest

from domains.fleet.control import Head
from domains.fleet.lease import NS_PER_S, Terms
from domains.fleet.placement import Placement
from domains.fleet.starting import Action, Do, State
from domains.fleet.wanted import HostSpec, NoRoom, Wanted

S = NS_PER_S
TERMS = Terms(5 * S, S, 2 * S)


def head_of(*hosts: tuple[str, int]) -> Head:
    head = Head(TERMS, Placement())
    for name, memory in hosts:
        assert head.join(HostSpec(name, memory, 4), 1, 0) == []
    return head


def starts(actions: list[Action]) -> dict[str, str]:
    """Domain → host of what is to be started; nothing else is."""
    assert all(action.do is Do.START for action in actions)
    return {action.domain: action.host for action in actions}


def up(head: Head, *wanted: Wanted) -> None:
    """All of them ready."""
    for name, host in starts(head.want(wanted, {})).items():
        head.ready(name, host)
    assert head.settled()


def test_a_domain_starts_when_those_it_comes_after_are_ready_or_done() -> None:
    head = head_of(("h1", 100), ("h2", 100))
    wanted = [Wanted("db", "db", 10), Wanted("job", "job", 10), Wanted("web", "web", 10)]
    begun = starts(head.want(wanted, {"web": ["db", "job"]}))
    assert begun.keys() == {"db", "job"}
    assert head.ready("db", begun["db"]) == []
    assert starts(head.ready("job", begun["job"], done=True)).keys() == {"web"}
    assert head.placement.host_of("job") is None


def test_all_find_a_place_or_none_is_wanted() -> None:
    head = head_of(("h1", 100))
    with pytest.raises(NoRoom, match="b: no host has room for 200 MiB"):
        head.want([Wanted("a", "a", 10), Wanted("b", "b", 200)], {})
    assert not head.domains
    assert starts(head.want([Wanted("a", "a", 10)], {})) == {"a": "h1"}


def test_what_a_lost_host_ran_starts_elsewhere_but_not_what_was_done() -> None:
    head = head_of(("h1", 100), ("h2", 100))
    up(head, Wanted("a", "a", 10), Wanted("b", "b", 10))
    (lost,) = [name for name in "ab" if head.placement.host_of(name) == "h1"]
    head.want([Wanted("job", "job", 10)], {})
    head.ready("job", head.placement.host_of("job") or "", done=True)
    head.renew("h2", 1, 0, 6 * S)
    assert head.tick(6 * S) == []
    assert starts(head.tick(7 * S)) == {lost: "h2"}
    assert head.ready(lost, "h1") == []  # it is not heard any more
    head.ready(lost, "h2")
    assert (head.domains[lost].state, head.domains[lost].moves) == (State.READY, 1)
    assert head.domains["job"].state is State.DONE


def test_a_host_that_comes_again_runs_nothing_and_what_it_ran_starts_at_once() -> None:
    head = head_of(("h1", 100))
    up(head, Wanted("a", "a", 10))
    assert starts(head.join(HostSpec("h1", 100, 4), 2, S)) == {"a": "h1"}


def test_what_finds_no_room_after_a_loss_waits_for_it() -> None:
    head = head_of(("h1", 100), ("h2", 50))
    up(head, Wanted("a", "a", 80))
    head.renew("h2", 1, 0, 7 * S)
    assert head.tick(7 * S) == []
    assert (head.domains["a"].state, head.domains["a"].why) == (State.WAITING, "no host has room")
    assert (head.at_rest(), head.settled()) == (True, False)
    assert starts(head.join(HostSpec("h3", 100, 4), 1, 8 * S)) == {"a": "h3"}


def test_what_fails_three_times_is_left_and_what_waits_for_it_is_left_out() -> None:
    head = head_of(("h1", 100))
    head.want([Wanted("a", "a", 10), Wanted("b", "b", 10), Wanted("c", "c", 10)], {"b": ["a"], "c": ["b"]})
    for attempt in range(3):
        head.failed("a", "h1", "no kernel")
        assert head.at_rest() == (attempt == 2)
        assert starts(head.start_waiting()) == ({"a": "h1"} if attempt < 2 else {})
    assert [head.domains[name].why for name in "abc"] == [
        "no kernel",
        "left out, for a did not come up",
        "left out, for b did not come up",
    ]
    assert head.settled()
    assert not any(host.domains for host in head.placement.hosts)


def test_a_move_has_its_share_at_both_ends_until_it_is_over() -> None:
    head = head_of(("h1", 100), ("h2", 100))
    up(head, Wanted("a", "a", 60))
    assert head.move("a", None) == Action(Do.MOVE, "a", "h1", "h2")
    with pytest.raises(NoRoom, match="is moving"):
        head.move("a", None)
    assert [host.free_memory for host in head.placement.hosts] == [40, 40]
    head.moved("a", "h1", "h2")
    assert [host.free_memory for host in head.placement.hosts] == [100, 40]
    head.move("a", "h1")
    head.moved("a", "h2", "h1", why="refused")
    assert (head.domains["a"].host, head.domains["a"].state) == ("h2", State.READY)
    assert [host.free_memory for host in head.placement.hosts] == [100, 40]
    with pytest.raises(NoRoom, match="runs on h2 already"):
        head.move("a", "h2")


def test_a_move_that_finds_no_room_is_told_of_by_the_domains_own_name() -> None:
    head = head_of(("h1", 100), ("h2", 5), ("h3", 100))
    up(head, Wanted("a", "a", 60))
    source = head.domains["a"].host or ""
    head.placement.close("h3" if source == "h1" else "h1")
    why = r"^a: no host has room for 60 MiB and 1 vCPU: 2 hosts with too little memory, 1 host closed to more domains$"
    with pytest.raises(NoRoom, match=why):
        head.move("a", None)
    with pytest.raises(NoRoom, match=r"^a: host h2 with too little memory$"):
        head.move("a", "h2")
    assert head.placement.is_open(source)


def test_a_domain_whose_source_is_lost_while_it_moves_starts_at_its_target_alone() -> None:
    head = head_of(("h1", 100), ("h2", 100), ("h3", 100))
    up(head, Wanted("a", "a", 60))
    head.move("a", "h3")
    for host in ("h2", "h3"):
        head.renew(host, 1, 0, 7 * S)
    assert starts(head.tick(7 * S)) == {"a": "h3"}
    assert head.moved("a", "h1", "h3") == []
    assert [host.free_memory for host in head.placement.hosts] == [100, 40]


def test_a_domain_whose_target_is_lost_while_it_moves_is_what_its_source_says() -> None:
    for why, state in (("the target is lost", State.READY), ("", State.STARTING)):
        head = head_of(("h1", 100), ("h2", 100))
        up(head, Wanted("a", "a", 60))
        head.move("a", "h2")
        head.renew("h1", 1, 0, 7 * S)
        assert head.tick(7 * S) == []
        head.moved("a", "h1", "h2", why=why)
        assert (head.domains["a"].host, head.domains["a"].state) == ("h1", state)


def test_a_drain_moves_all_or_nothing_and_closes_the_host() -> None:
    head = head_of(("h1", 100), ("h2", 90))
    up(head, Wanted("a", "a", 40), Wanted("b", "b", 40))
    head.placement.put(Wanted("c", "c", 30), "h2")
    with pytest.raises(NoRoom):
        head.drain("h1")
    assert head.placement.is_open("h1")
    assert head.domains["a"].state is State.READY
    head.placement.release("c")
    actions = head.drain("h1")
    assert {action.host for action in actions} == {"h1"}
    for action in actions:
        head.moved(action.domain, "h1", action.target or "")
    assert not head.placement.domains_on("h1")
    assert not head.placement.is_open("h1")


class Played:
    """Hosts that do as they are told, sooner or later, in a random order."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.head = head_of()
        self.running: dict[str, set[str]] = {}
        self.todo: list[Action] = []
        self.incarnations: dict[str, int] = {}
        self.now = 0

    def join(self, host: str) -> None:
        number = self.incarnations[host] = self.incarnations.get(host, 0) + 1
        self.running[host] = set()
        self.todo = [one for one in self.todo if host != one.host]
        self.todo += self.head.join(HostSpec(host, self.draw.choice((100, 200)), 4), number, self.now)

    def perform(self) -> None:
        action = self.todo.pop(self.draw.randrange(len(self.todo)))
        if action.host not in self.running:
            return
        if action.do is Do.START:
            if self.draw.random() < 0.1:
                self.todo += self.head.failed(action.domain, action.host, "no luck")
                return
            self.running[action.host].add(action.domain)
            self.todo += self.head.ready(action.domain, action.host)
            return
        target = action.target or ""
        if action.domain in self.running[action.host] and self.still_there(action.domain, target):
            self.running[action.host].remove(action.domain)
            self.running[target].add(action.domain)
            self.todo += self.head.moved(action.domain, action.host, target)
        else:
            self.todo += self.head.moved(action.domain, action.host, target, why="no target")

    def still_there(self, domain: str, target: str) -> bool:
        """Whether the target of a move is the one that was meant: one that has begun anew is not."""
        return target in self.running and self.head.domains[domain].target == target

    def step(self) -> None:
        chance = self.draw.random()
        living = sorted(self.running)
        if chance < 0.04 and len(living) > 1:
            del self.running[
                self.draw.choice(living)
            ]  # it has stopped all it ran, and the head is told by its lease
        elif chance < 0.08 and len(living) < 6:
            self.join(
                self.draw.choice(
                    [name for name in ("h1", "h2", "h3", "h4", "h5", "h6") if name not in living]
                )
            )
        elif chance < 0.12 and living:
            host = self.draw.choice(living)
            try:
                self.todo += self.head.drain(host)
            except (NoRoom, KeyError):
                pass
            else:
                self.head.placement.reopen(host)
        elif self.todo:
            self.perform()
        self.now += S // 2
        for host in self.running:
            self.head.renew(host, self.incarnations[host], 0, self.now)
        self.todo += self.head.tick(self.now)
        self.todo += self.head.start_waiting()

    def check(self) -> None:
        everywhere = [name for names in self.running.values() for name in names]
        assert len(everywhere) == len(set(everywhere)), everywhere
        for host in self.head.placement.hosts:
            assert (
                host.free_memory == host.spec.memory - sum(one.memory for one in host.domains.values()) >= 0
            )


@pytest.mark.parametrize("seed", range(20))
def test_random_play_never_runs_a_domain_twice_and_ends_with_all_of_them(seed: int) -> None:
    play = Played(seed)
    for host in ("h1", "h2", "h3"):
        play.join(host)
    play.todo += play.head.want([Wanted(f"d{i}", f"k{i % 3}", 20) for i in range(10)], {"d9": ["d0", "d1"]})
    for _ in range(600):
        play.step()
        play.check()
    for host in ("h1", "h2", "h3"):
        if host not in play.running:
            play.join(host)
    for _ in range(2000):
        known = {host.spec.name for host in play.head.placement.hosts}
        if not play.todo and play.head.settled() and known == play.running.keys():
            break
        if play.todo:
            play.perform()
        play.now += S // 4
        for host in play.running:
            play.head.renew(host, play.incarnations[host], 0, play.now)
        play.todo += play.head.tick(play.now) + play.head.start_waiting()
        play.check()
    states = {domain.state for domain in play.head.domains.values()}
    assert states <= {State.READY, State.FAILED}
    running = {name for names in play.running.values() for name in names}
    assert running >= {name for name, domain in play.head.domains.items() if domain.state is State.READY}
