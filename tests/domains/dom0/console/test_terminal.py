"""A domain's console between its ring and its viewers; the guest's side of the ring is played by the test."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.dom0.console.history import History
from domains.dom0.console.ring import ConsoleRing
from domains.dom0.console.terminal import Terminal, Viewer
from domains.kernel.console import IN_SIZE, OUT_SIZE

OUT_AT, INDICES_AT = IN_SIZE, IN_SIZE + OUT_SIZE
IN_CONS, IN_PROD, OUT_CONS, OUT_PROD = range(4)


class GuestSide:
    """The guest's half of the protocol, on the same page."""

    def __init__(self, start: int = 0) -> None:
        self.page = bytearray(4096)
        self.index = memoryview(self.page)[INDICES_AT : INDICES_AT + 16].cast("I")
        for i in range(4):
            self.index[i] = start & 0xFFFF_FFFF
        self.notified = 0
        self.terminal = Terminal(ConsoleRing(memoryview(self.page)), self._notified, history_size=10_000)

    def _notified(self) -> None:
        self.notified += 1

    def say(self, data: bytes) -> None:
        for byte in data:
            if (self.index[OUT_PROD] - self.index[OUT_CONS]) & 0xFFFF_FFFF == OUT_SIZE:
                self.terminal.service()
            self.page[OUT_AT + self.index[OUT_PROD] % OUT_SIZE] = byte
            self.index[OUT_PROD] = (self.index[OUT_PROD] + 1) & 0xFFFF_FFFF
        self.terminal.service()

    def hear(self) -> bytes:
        heard = bytearray()
        while self.index[IN_CONS] != self.index[IN_PROD]:
            heard.append(self.page[self.index[IN_CONS] % IN_SIZE])
            self.index[IN_CONS] = (self.index[IN_CONS] + 1) & 0xFFFF_FFFF
        self.terminal.service()
        return bytes(heard)


class Watcher:
    """A viewer that keeps what it was given, and may refuse."""

    def __init__(self) -> None:
        self.data = b""
        self.end: str | None = None
        self.refuses = False
        self.viewer = Viewer(self._take, self._ended)

    def given(self) -> tuple[bytes, str | None]:
        """The bytes so far, and why the console ended, if it did."""
        return self.data, self.end

    def _take(self, data: bytes) -> bool:
        if self.refuses:
            return False
        self.data += data
        return True

    def _ended(self, reason: str) -> None:
        self.end = reason


def test_a_viewer_that_comes_later_sees_everything_from_the_first_byte() -> None:
    guest, watcher = GuestSide(), Watcher()
    guest.say(b"booting\n")
    guest.terminal.attach(watcher.viewer)
    guest.say(b"ready\n")
    assert watcher.data == b"booting\nready\n"


def test_all_viewers_see_the_same() -> None:
    guest, watchers = GuestSide(), [Watcher(), Watcher()]
    for watcher in watchers:
        guest.terminal.attach(watcher.viewer)
    guest.say(b"hello")
    assert [watcher.data for watcher in watchers] == [b"hello", b"hello"]


def test_a_slow_viewer_holds_nobody_up_and_misses_only_what_no_longer_is_kept() -> None:
    guest, slow, fast = GuestSide(), Watcher(), Watcher()
    guest.terminal.attach(slow.viewer)
    guest.terminal.attach(fast.viewer)
    slow.refuses = True
    text = bytes(range(256)) * 100
    guest.say(text)
    assert fast.data == text
    assert not guest.terminal.pump()
    slow.refuses = False
    assert guest.terminal.pump()
    assert slow.data == text[-10_000:]


def test_the_last_bytes_come_before_the_end() -> None:
    guest, watcher = GuestSide(), Watcher()
    guest.terminal.attach(watcher.viewer)
    guest.page[OUT_AT : OUT_AT + 3] = b"bye"
    guest.index[OUT_PROD] = 3
    assert guest.terminal.close("poweroff")
    assert watcher.given() == (b"bye", "poweroff")


def test_a_slow_viewer_gets_the_end_after_the_bytes() -> None:
    guest, watcher = GuestSide(), Watcher()
    guest.terminal.attach(watcher.viewer)
    watcher.refuses = True
    guest.say(b"bye")
    assert not guest.terminal.close("crash")
    assert watcher.end is None
    watcher.refuses = False
    assert guest.terminal.pump()
    assert watcher.given() == (b"bye", "crash")


def test_input_longer_than_the_ring_arrives_whole_and_in_order() -> None:
    guest = GuestSide()
    text = bytes(i * 7 % 251 for i in range(5000))
    guest.terminal.type(text)
    heard = b""
    while piece := guest.hear():
        heard += piece
    assert heard == text


def test_who_comes_after_the_end_sees_everything_and_the_end() -> None:
    guest, late = GuestSide(), Watcher()
    guest.say(b"last words")
    guest.terminal.finish("reboot")
    guest.terminal.attach(late.viewer)
    assert (late.data, late.end) == (b"last words", "reboot")
    guest.terminal.close("destroyed")
    again = Watcher()
    guest.terminal.attach(again.viewer)
    assert (again.data, again.end) == (b"last words", "destroyed")


@pytest.mark.parametrize("index", [OUT_SIZE + 1, 0x8000_0000, 0xFFFF_FFFF])
def test_an_impossible_output_index_breaks_this_console_and_nothing_else(index: int) -> None:
    guest, watcher = GuestSide(), Watcher()
    guest.terminal.attach(watcher.viewer)
    guest.index[OUT_PROD] = index
    guest.terminal.service()
    assert guest.terminal.broken
    assert watcher.data == b""
    guest.index[OUT_PROD] = 3
    guest.terminal.service()
    guest.terminal.type(b"x")
    assert watcher.data == b""
    assert guest.index[IN_PROD] == 0


def test_an_impossible_input_index_breaks_this_console() -> None:
    guest = GuestSide()
    guest.index[IN_CONS] = 5
    guest.terminal.type(b"x")
    assert guest.terminal.broken


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=3000), max_size=6), st.sampled_from([0, 0xFFFF_FF00, 12345]))
def test_every_byte_arrives_once_and_in_order_wherever_the_indices_started(
    pieces: list[bytes], start: int
) -> None:
    guest, watcher = GuestSide(start), Watcher()
    guest.terminal.attach(watcher.viewer)
    for piece in pieces:
        guest.say(piece)
    assert watcher.data == b"".join(pieces)


@given(st.lists(st.binary(max_size=30)), st.integers(1, 40))
def test_history_keeps_exactly_the_newest_bytes(pieces: list[bytes], size: int) -> None:
    history, said = History(size), b""
    for piece in pieces:
        history.append(piece)
        said += piece
    assert history.end == len(said)
    assert history.read(0, len(said) + 1) == (said[-size:] if said else b"", len(said))
