"""The credit behind a rate: no more than it allows over any while, no less where the sender keeps it busy."""

from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.net.credit import BURST, Credit

SECOND = 10**9


@settings(deadline=None)
@given(
    size=st.integers(100, 1_000_000),
    interval=st.integers(1000, 1_000_000),
    packets=st.lists(st.integers(60, 65535), min_size=1, max_size=200),
)
def test_a_busy_sender_gets_its_rate_and_a_burst_at_most(
    size: int, interval: int, packets: list[int]
) -> None:
    credit, now, sent = Credit(size, interval, 0), 0, 0
    for packet in packets:
        while not credit.take(packet, now):
            wait = credit.wait(packet, now)
            assert wait > 0
            now += wait
        sent += packet
        granted = (now // (interval * 1000) + 1) * size
        assert sent <= granted + max(size, BURST)
    assert sent + max(size, BURST) + 65535 >= (now // (interval * 1000)) * size


def test_what_an_idle_interface_saves_is_bounded() -> None:
    credit = Credit(1000, 50_000, 0)
    assert credit.take(BURST, 1000 * SECOND)
    assert not credit.take(1, 1000 * SECOND)
