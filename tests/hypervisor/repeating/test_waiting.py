"""The repeating core waits for one process at a time, and takes in what others say meanwhile.

A message of another process once stayed readable while a fork was waited for: the core looked at it for ever, now and then, on a
busy host. Negative control: without `gather` in `RepeatingLinks._wait` this test does not end.
"""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from hypervisor.repeating.core import RepeatingCore
from hypervisor.repeating.links import RepeatingLinks


class Endpoint:
    """Somebody else's word has come."""

    fd = -1

    def __init__(self) -> None:
        self.words: list[Any] = [(7, b"a word")]

    def readable(self) -> bool:
        return bool(self.words)

    def receive(self) -> Any:
        return self.words.pop() if self.words else None


@pytest.mark.timeout(20)
def test_a_word_of_another_process_does_not_hold_up_the_wait() -> None:
    links, endpoint = object.__new__(RepeatingLinks), Endpoint()
    links.endpoint = endpoint  # type: ignore[assignment]
    links.ending, links.received = False, deque()
    links._keep = links.received.append  # type: ignore[assignment, method-assign]
    links._wait(None, lambda: not endpoint.words)  # type: ignore[arg-type]
    assert list(links.received) == [(7, b"a word")]


@pytest.mark.timeout(20)
def test_a_process_that_posts_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its messages was heard in time, and none was a request: nobody else of the machine ran any more."""
    monkeypatch.setattr("hypervisor.repeating.core.PATIENCE_S", 0.01)
    core, link = object.__new__(RepeatingCore), SimpleNamespace(killed=False, pidfd=0)
    vcpu: Any = SimpleNamespace(domain=SimpleNamespace(domid=1, privileged=False))
    links = SimpleNamespace(by_domid={1: link}, ending=False, send=lambda _vcpu: None, hear=lambda *_: True)
    given_up = []

    def give_up(domain: Any) -> None:
        given_up.append(domain)
        link.killed = True

    for name, value in {
        "links": links,
        "_allow": lambda _vcpu: None,
        "_serve_received": lambda: True,
        "_give_up": give_up,
    }.items():
        monkeypatch.setattr(core, name, value, raising=False)
    core._go_on(vcpu)
    assert given_up == [vcpu.domain]
