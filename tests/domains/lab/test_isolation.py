"""isolation: exact counts. Negative controls: round robin in the place of credit2, one queue for all senders, one who looks at
each event, a turn that is not shared: the claims about them fail.
"""

from functools import cache

from domains.lab.experiments.isolation import Found, claims, look
from domains.lab.neighbours import MS


@cache
def found() -> Found:
    return look()


def test_cpu() -> None:
    assert found().even == [250 * MS] * 4
    assert found().double == [400 * MS, *[200 * MS] * 3]
    assert (found().wait, found().wait_in_turn) == (2 * MS, 30 * MS)


def test_the_rest() -> None:
    assert found().memory == (1024, 1280, 1024, 13302, 2048)
    assert found().storm == (48, 1)
    assert (found().upcalls, found().disk, found().packets) == ((1, 1000), (16, 32), ((346, 1), (346, 346)))


def test_without_what_holds_them_off() -> None:
    one = found()
    loose = one._replace(
        wait=one.wait_in_turn,
        upcalls=one.upcalls[::-1],
        disk=(one.disk[1], one.disk[1]),
        packets=one.packets[::-1],
    )
    assert [claim.holds for claim in claims(loose)] == [True, True, False, True, False, False, True, False]
