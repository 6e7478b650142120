"""Events that are sent without waiting: when they are certain to succeed, and what becomes of those that are not.

Control: without `closed`, a send on a closed port is told to have succeeded.
"""

from __future__ import annotations

import struct
from typing import Any

from domains.cpu.event_posts import AT_ONCE, EventPosts
from domains.cpu.post_queue import PostQueue
from hypervisor.wire.messages import Post


def event_posts() -> tuple[EventPosts, list[Any]]:
    """With what it tells the core."""
    told: list[Any] = []
    return EventPosts(PostQueue(told.append, timed=False)), told


def asked(posts: EventPosts, port: int, result: int = 0) -> None:
    assert not posts.send(0, port, alone=True)
    posts.answered(0, result)


def test_a_port_is_certain_from_its_first_success_until_it_is_closed() -> None:
    posts, told = event_posts()
    asked(posts, 7, result=-22)
    asked(posts, 7)
    assert posts.send(0, 7, alone=True)
    assert struct.pack("<QQ", Post.EVTCHN_SEND, 7) in told[0]
    assert not posts.send(0, 7, alone=False), "a sibling may be closing it"
    posts.answered(0, -22)
    posts.answered(1, 0)
    assert posts.send(0, 7, alone=True)
    posts.closed(7)
    asked(posts, 7, result=-22)
    asked(posts, 7, result=-22)


def test_another_vcpus_answer_makes_no_port_certain() -> None:
    posts, _ = event_posts()
    assert not posts.send(0, 7, alone=True)
    posts.answered(1, 0)
    assert not posts.send(1, 7, alone=True)
    posts.answered(0, -22)
    assert not posts.send(0, 7, alone=True)


def test_nobody_sends_without_end_before_the_core_has_answered() -> None:
    posts, told = event_posts()
    asked(posts, 7)
    assert [posts.send(0, 7, alone=True) for _ in range(AT_ONCE + 3)] == [True] * AT_ONCE + [False] * 3
    posts.answered(0, 0)
    assert posts.send(0, 7, alone=True)
    assert len(told) == AT_ONCE + 1


def test_on_a_machine_that_repeats_itself_every_event_is_asked_for() -> None:
    posts = EventPosts(None)
    for _ in range(3):
        asked(posts, 7)
