"""Rules of a byte ring: bytes come out as they went in, and nothing that the other side writes reaches beyond its own data.

Control of the impossible indices: the largest possible one is served.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.kernel.byte_ring import INDEX_MASK, ByteRingReader, ByteRingWriter, Direction, RingBroken

WHERE = Direction(data=8, size=16, cons=0, prod=4)
AROUND = b"\xaa" * 8
STARTS = st.sampled_from([0, 5, 15, 16, INDEX_MASK - 7, INDEX_MASK])


class Page:
    """A page with the direction in it, something behind it, and both ends."""

    def __init__(self, start: int = 0) -> None:
        self.octets = memoryview(bytearray(8 + 16) + bytearray(AROUND))
        self.words = self.octets[:8].cast("I")
        self.words[0] = self.words[1] = start
        self.writer = ByteRingWriter(self.octets, WHERE)
        self.reader = ByteRingReader(self.octets, WHERE)


@settings(max_examples=200, deadline=None)
@given(STARTS, st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 20)), max_size=8))
def test_bytes_come_out_in_order_over_the_end_of_ring_and_index(
    start: int, steps: list[tuple[bytes, int]]
) -> None:
    page, sent, got = Page(start), b"", b""
    for data, most in steps:
        count = page.writer.put(data)
        assert count == min(len(data), 16 - (len(sent) - len(got)))
        sent += data[:count]
        got += page.reader.take(most)
    assert got + page.reader.take() == sent
    assert page.words[0] == page.words[1] == (start + len(sent)) & INDEX_MASK
    assert bytes(page.octets[24:]) == AROUND


@settings(max_examples=200, deadline=None)
@given(STARTS, st.integers(0, INDEX_MASK))
def test_an_index_of_the_other_side_is_served_up_to_the_ring_s_size_and_else_breaks_it(
    start: int, ahead: int
) -> None:
    ahead = ahead if ahead % 2 else ahead % 40
    page = Page(start)
    page.words[1] = (start + ahead) & INDEX_MASK
    if ahead <= 16:
        assert len(page.reader.take()) == ahead
    else:
        with pytest.raises(RingBroken):
            page.reader.take()
        assert page.words[0] == start
    page = Page(start)
    page.words[0] = (start - ahead) & INDEX_MASK
    if ahead <= 16:
        assert page.writer.put(b"x" * 20) == 16 - ahead
    else:
        before = bytes(page.octets)
        with pytest.raises(RingBroken):
            page.writer.put(b"x")
        assert bytes(page.octets) == before


def test_what_the_other_side_writes_over_an_end_s_own_index_has_no_effect() -> None:
    page = Page()
    page.words[0] = page.words[1] = 0xDEADBEEF
    page.words[0] = 0
    assert page.writer.put(b"abc") == 3
    assert page.words[1] == 3
    page.words[0] = 0xDEADBEEF
    assert page.reader.take() == b"abc"
    assert page.words[0] == 3


def test_a_released_end_lets_go_of_the_page() -> None:
    octets = bytearray(32)
    view = memoryview(octets)
    for end in (ByteRingWriter(view, WHERE), ByteRingReader(view, WHERE)):
        end.release()
    view.release()
    octets.append(0)  # BufferError while anybody holds a view
