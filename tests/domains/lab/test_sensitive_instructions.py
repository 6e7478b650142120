"""sensitive-instructions: exact counts. Negative control: a monitor that translates nothing is not taken for one that does."""

from functools import cache

import pytest

from domains.lab.experiments.sensitive_instructions import (
    LEAKS,
    LIES,
    PROBES,
    RINGS,
    SAME,
    TRAPS,
    Runs,
    answer,
    claims,
    count,
    try_all,
    verdict,
)
from domains.lab.probes import names, probe_image


@cache
def runs() -> Runs:
    return try_all()


def test_every_probe_of_the_list_is_there() -> None:
    assert names(probe_image())[: len(PROBES)] == list(PROBES)


@pytest.mark.parametrize(("kind", "often"), [(TRAPS, 7), (LIES, 11), (LEAKS, 6), (SAME, 6)])
@pytest.mark.parametrize("ring", RINGS[1:])
def test_how_many_do_what(kind: str, often: int, ring: int) -> None:
    assert count(runs(), kind, ring) == often


@pytest.mark.parametrize(
    ("name", "answers", "what"),
    [
        ("popf", ["0x200", "0x0", "0x0"], LIES),
        ("iret", ["0x200", "0x0", "0x0"], LIES),
        ("push", ["0x8", "0x9", "0xb"], LIES),
        ("lar", ["0xc09b00", "0xc0bb00", "0xc0fb00"], LIES),
        ("ret", ["0x0", "#GP(0x8)", "#GP(0x8)"], TRAPS),
        ("int_0", ["0x0", "#GP(0x192)", "#GP(0x192)"], TRAPS),
        ("str", ["0x28", "0x28", "0x28"], LEAKS),
        ("smsw", ["0x11", "0x11", "0x11"], LEAKS),
        ("sldt", ["0x30", "0x30", "0x30"], SAME),
    ],
)
def test_some_of_them(name: str, answers: list[str], what: str) -> None:
    assert [answer(runs()["native"][name, ring]) for ring in RINGS] == answers
    assert verdict(runs(), name, 1) == what


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("sgdt", {"call-out sgdt": 1}),
        ("popf", {"call-out pushfd": 2, "call-out popfd": 1}),
        ("push", {"call-out push cs": 1}),
        ("mov_to_ss", {"trap load of ss": 1}),
        ("mov_to_es", {}),
        ("int", {"software interrupt": 1}),
    ],
)
def test_what_the_monitor_does(name: str, entries: dict[str, int]) -> None:
    assert runs()["esx"][name, 0].entries == entries
    assert not runs()["nested"][name, 0].entries


def test_a_monitor_that_translates_nothing_is_seen() -> None:
    changed = runs() | {"esx": runs()["left"]}
    assert [claim.text for claim in claims(changed) if not claim.holds] == [
        "ESX: a kernel in ring 1 sees what it sees alone"
    ]
