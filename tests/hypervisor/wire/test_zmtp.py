"""The core's own reading of ZMTP: messages come through however they are cut; what is held stays bounded; the rest is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.wire.messages import MAX_MESSAGE, ProtocolError
from hypervisor.wire.zmtp import OUR_HANDSHAKE, Incoming, frame


def fed(octets: bytes, size: int) -> list[bytes]:
    """What comes of `octets` in chunks of `size`."""
    incoming, messages = Incoming(MAX_MESSAGE), []
    for at in range(0, len(octets), size):
        messages += incoming.feed(octets[at : at + size])
        assert len(incoming._held) <= MAX_MESSAGE + size + 9
    return messages


@given(st.lists(st.binary(max_size=600), max_size=20), st.integers(1, 700))
def test_messages_come_through_however_they_are_cut(messages: list[bytes], size: int) -> None:
    assert fed(OUR_HANDSHAKE + b"".join(map(frame, messages)), size) == messages


@pytest.mark.parametrize(
    "octets",
    [
        b"\x01\x00",
        b"\x03" + (16000).to_bytes(8, "big"),
        b"\x02" + (MAX_MESSAGE + 1).to_bytes(8, "big"),
        b"\x04\x07\x04PING\0\0",
        b"\x06" + (7).to_bytes(8, "big") + b"\x04PING\0\0",
        b"\xff",
    ],
    ids=["more follows", "more follows, long", "too large", "a command", "a long command", "no frame"],
)
def test_only_whole_messages_of_one_frame_are_read(octets: bytes) -> None:
    for size in (1, 8192):
        with pytest.raises(ProtocolError):
            fed(OUR_HANDSHAKE + frame(b"before") + octets, size)


@given(st.binary(min_size=64, max_size=200))
def test_another_greeting_is_refused(octets: bytes) -> None:
    with pytest.raises(ProtocolError):
        fed(octets, 64)
