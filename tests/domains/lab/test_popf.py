"""popf: exact counts. Negative control, the experiment's own: without the call-out POPF loses the flag; with it, claims fail."""

from functools import cache

import pytest

from domains.lab.compare import SYSTEMS, Measured, measure
from domains.lab.experiments import popf
from domains.lab.experiments.popf import BARE, LOOKED_AT, PROGRAM, claims, popfs, sees, stores_to_mask

FLAG = {"call-out pushfd": 7, "call-out popfd": 3, "trap cli": 2, "trap sti": 2}
LEFT = {cause: count for cause, count in FLAG.items() if cause != "call-out popfd"}


@cache
def run(name: str) -> Measured:
    return popf.without() if name == BARE else measure(name, PROGRAM)


@pytest.mark.parametrize("name", [*SYSTEMS, BARE])
def test_what_the_kernel_sees(name: str) -> None:
    seen = [sees(run(name), what) for what in LOOKED_AT]
    assert seen == ([True, True, False, False] if name == BARE else [True] * 4)


@pytest.mark.parametrize("name", [*SYSTEMS, BARE])
def test_how_the_flag_is_turned(name: str) -> None:
    one = run(name)
    exits = {cause: count for cause, count in one.part.exits.items() if cause in popf.OF_FLAG}
    assert exits == {"esx": FLAG, "workstation": FLAG, BARE: LEFT}.get(name, {})
    assert (popfs(one), stores_to_mask(one)) == ((0, 7) if name == "xen" else (3, 0))
    assert "guest's own #GP" not in one.part.exits


def test_with_the_call_out_nothing_is_lost() -> None:
    runs = {name: run(name) for name in SYSTEMS} | {BARE: run("esx")}
    assert [claim.text for claim in claims(runs) if not claim.holds] == [
        "without the call-out POPF loses the flag",
        "… and nothing tells of it: no entry of POPF's",
    ]
