"""scheduling and scale: what is played, and how a wrong policy shows.

Negative controls: a scheduler that charges by ticks is robbed by the cheat; weights that nobody sets give thirds.
"""

from __future__ import annotations

import pytest

from domains.lab import played_vcpus
from domains.lab.experiments import scheduling
from domains.lab.played_vcpus import MS, cheat, missed_deadlines, shares, sleeper_beside, switches
from tests.hypervisor.sched.test_guarantees import SampledCredit


@pytest.mark.parametrize("name", scheduling.FAIR)
def test_weights_give_shares(name: str) -> None:
    assert shares(name, (1, 1, 2)) == pytest.approx([25, 25, 50], rel=0.03)


def test_control_weights_that_nobody_sets_give_thirds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(played_vcpus, "weighted", lambda _scheduler, _weight: None)
    assert shares("credit2", (1, 1, 2)) == pytest.approx([100 / 3] * 3, rel=0.03)


def test_a_sleeper_is_woken_each_time_and_waits_as_long_as_it_takes_to_stop() -> None:
    sleeper = sleeper_beside("bvt", 3)
    assert len(sleeper.waits) >= 998
    assert sleeper.median == played_vcpus.STOP / MS


def test_who_dodges_ticks_gains_nothing() -> None:
    assert cheat("credit") < 51


def test_control_where_ticks_are_charged_it_has_the_cpu_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(played_vcpus, "make_scheduler", lambda _name: SampledCredit())
    assert cheat("credit") > 80


def test_deadlines_are_missed_only_where_budgets_do_not_fit() -> None:
    assert missed_deadlines([2 * MS, 3 * MS]) == 0
    assert missed_deadlines([6 * MS, 5 * MS]) > 0


def test_changes_follow_the_slice() -> None:
    assert switches(1, 5 * MS) < 1
    assert switches(2, 5 * MS) == pytest.approx(200, abs=1)
    assert switches(40, 5 * MS, cpus=2) == pytest.approx(200, abs=1)
