"""A console as text: any bytes in any pieces, bounded, with positions that stay."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from domains.testing.text import LIMIT, ConsoleText


def fed(*pieces: bytes) -> ConsoleText:
    text = ConsoleText()
    for piece in pieces:
        text.feed(piece)
    return text


def test_a_line_ends_with_a_newline_however_it_comes_in_pieces() -> None:
    assert fed(b"a\r\nb\r", b"\nc\r", b"d\r").since(0) == "a\nb\nc\rd"


def test_a_character_may_come_in_pieces_and_what_is_none_is_shown_as_such() -> None:
    assert fed("ü".encode()[:1], "ü".encode()[1:], b"\xff!").since(0) == "ü\ufffd!"


@given(st.lists(st.binary(max_size=8)))
def test_any_pieces_give_the_text_of_the_whole(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    assert fed(*pieces).since(0) == fed(whole).since(0)


def test_a_long_console_keeps_its_end_and_its_positions() -> None:
    text = fed(b"begin\n")
    before = text.end
    for _ in range(40):
        text.feed(b"x" * (LIMIT // 16))
    text.feed(b"here and here")
    assert text.end == before + 40 * (LIMIT // 16) + 13
    assert LIMIT <= len(text.since(0)) <= 2 * LIMIT
    first = text.find(re.compile("here"), before)
    assert first is not None
    position = text.position_of(first.end())
    assert text.since(position) == " and here"
    assert text.find(re.compile("here"), position) is not None
    assert text.find(re.compile("begin"), 0) is None
