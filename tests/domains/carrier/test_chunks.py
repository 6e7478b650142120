"""What two carriers may send each other, without any socket. Control: a side that counts nothing is found by the first test."""

from __future__ import annotations

import struct

import pytest

from domains.carrier.chunks import CHUNK, QUANTUM, WINDOW, Flow, Kind, Violation, hello


def data(size: int) -> memoryview:
    return memoryview(bytes((Kind.DATA,)) + bytes(size))


def test_nobody_sends_more_than_the_window_without_credit() -> None:
    flow = Flow()
    for _ in range(WINDOW // CHUNK):
        flow.came(data(CHUNK))
    with pytest.raises(Violation, match="more than it may"):
        flow.came(data(1))


def test_credit_is_given_for_what_was_taken_and_for_nothing_else() -> None:
    sender, receiver = Flow(), Flow()
    sent = 0
    for _ in range(3 * WINDOW // CHUNK):
        message = sender.sending(bytes(CHUNK))
        sent += CHUNK
        assert receiver.came(memoryview(message)).nbytes == CHUNK
        credit = receiver.taken(CHUNK)
        if credit is not None:
            sender.came(memoryview(credit))
    assert sender.may_send >= WINDOW - QUANTUM
    with pytest.raises(Violation, match="credit"):
        sender.came(memoryview(struct.pack("<BI", Kind.CREDIT, WINDOW)))


@pytest.mark.parametrize(
    "message",
    [b"", b"\x63", bytes((Kind.CREDIT, 1)), bytes((Kind.HELLO,)) + b"xenoscope 0"],
    ids=["nothing", "an unknown kind", "a credit cut short", "another version"],
)
def test_what_no_machine_of_this_version_says_is_refused(message: bytes) -> None:
    with pytest.raises(Violation):
        Flow().came(memoryview(message))


def test_nothing_comes_after_the_end() -> None:
    flow = Flow()
    flow.came(memoryview(hello()))
    flow.came(memoryview(bytes((Kind.END,))))
    with pytest.raises(Violation):
        flow.came(data(1))
