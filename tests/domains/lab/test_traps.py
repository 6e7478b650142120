"""traps: exactly what is registered, what a bad one gets, and each word of a frame. Negative control: were selectors taken as
they come, the first claim would fail.
"""

from functools import cache

import pytest

from domains.lab.experiments.traps import (
    ASKED,
    BAD,
    CHECKED,
    FRAMES,
    LEVELS,
    Asked,
    Bad,
    Frame,
    by_level,
    by_program,
    call_gates,
    claims,
    end_of,
    frames_of,
    register_all,
    same_frames,
)
from hypervisor.hypercalls import callbacks
from hypervisor.public.errno import Errno

CODES = {"page_fault": 6, "protection_fault": 7}


@cache
def registered() -> dict[Asked, int | Errno]:
    return register_all(32) | register_all(64)


@cache
def end(bad: Bad) -> str:
    return end_of(bad)


@cache
def frames() -> dict[str, dict[str, Frame]]:
    return by_program({system: frames_of(system) for system in CHECKED})


@pytest.mark.parametrize("asked", ASKED, ids=lambda one: one.title)
def test_what_is_registered(asked: Asked) -> None:
    assert registered()[asked] == asked.wanted


@pytest.mark.parametrize("bad", BAD, ids=lambda one: one.title)
def test_a_bad_one_ends_its_own_domain(bad: Bad) -> None:
    assert bad.reason in end(bad)


def test_only_dpl_3_may_be_called_by_a_program() -> None:
    assert by_level(call_gates()) == LEVELS


@pytest.mark.parametrize("program", FRAMES)
def test_the_frame_is_the_cpu_s(program: str) -> None:
    native = frames()[program]["native"]
    assert native["EIP"] == (2 if program == "null_call" else 0)
    assert native.get("error code") == CODES.get(program)
    assert same_frames(frames()[program])


def test_another_frame_is_seen() -> None:
    changed = {system: dict(frame) for system, frame in frames()["page_fault"].items()}
    changed["xen"]["error code"] ^= 4
    assert not same_frames(changed)


def test_selectors_as_they_come_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "guest_selector", lambda selector, _rpl: selector)
    found = register_all(32) | register_all(64)
    ends = {bad: bad.reason for bad in BAD}
    assert [claim.text for claim in claims(found, ends, LEVELS, frames()) if not claim.holds] == [
        "a selector has at least the RPL of the guest's kernel: ring 1, or 3 in 64 bits"
    ]
