"""translation: exact counts. Negative control: a walker that takes the guest's addresses for the machine's reads fewer
entries and does not find what the program stored.
"""

from functools import cache

import pytest

from domains.lab.cpu_log import What, cpu_log
from domains.lab.experiments import translation
from domains.lab.experiments.translation import LONG_STORED, STORED, Walked, kept, long_walk, pae_walk

READ_64 = {"native": 4, "nested": 24}
READ_PAE = {"native": 3, "nested": 19, "vtx": 3, "esx": 4, "workstation": 4, "xen": 4}


@cache
def long(name: str) -> Walked:
    return long_walk(name)


@pytest.mark.parametrize("name", READ_64)
def test_entries_read_in_long_mode(name: str) -> None:
    walked = long(name)
    assert walked.by_walker is not None
    assert len(walked.by_cpu) == READ_64[name]
    assert [one.at for one in walked.by_walker] == walked.by_cpu
    assert walked.stored == LONG_STORED


@pytest.mark.parametrize("name", READ_PAE)
def test_entries_read_with_pae(name: str) -> None:
    walked, _ = pae_walk(name)
    assert len(walked.by_cpu) == READ_PAE[name]
    assert walked.by_walker is None or walked.stored == STORED


def test_of_the_24_steps_each_fifth_is_the_guests_own() -> None:
    walk = long("nested").by_walker or []
    assert [number for number, one in enumerate(walk, 1) if one.table == "guest"] == [5, 10, 15, 20]
    assert [one.level for one in walk] == [
        4,
        3,
        2,
        1,
        4,
        4,
        3,
        2,
        1,
        3,
        4,
        3,
        2,
        1,
        2,
        4,
        3,
        2,
        1,
        1,
        4,
        3,
        2,
        1,
    ]


def test_shadows_are_per_application() -> None:
    assert [kept("esx", count) for count in (1, 2)] == [(3, 50, 1024), (4, 56, 1024)]


def test_a_walk_that_knows_no_p2m_ends_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(translation.BELOW, "nested")
    walked = long_walk("nested")
    assert len(walked.by_walker or []) < len(walked.by_cpu) == 24
    assert walked.stored != LONG_STORED


def test_nothing_is_noted_before_the_start_or_after_the_stop() -> None:
    log = cpu_log()
    log.start()
    assert log.stop() == []
    long_walk("native")
    log.start()
    assert [record for record in log.stop() if record.what == What.FILL] == []
