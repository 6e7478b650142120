"""Messages: what an honest process sends comes through; everything else is a ProtocolError and nothing worse (H3, D2.9)."""

from __future__ import annotations

import os

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.machine.memory import create_memfd
from hypervisor.wire.mailbox import MAILBOX_FRAMES, Mailbox
from hypervisor.wire.messages import MAX_MESSAGE, ProtocolError, Request, pack, unpack_request

U64 = st.integers(0, (1 << 64) - 1)


@given(st.lists(U64, min_size=9, max_size=9))
def test_a_request_comes_through_as_it_was_sent(words: list[int]) -> None:
    assert unpack_request(pack(words)) == words


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_raise_protocol_error(data: bytes) -> None:
    try:
        message = unpack_request(data)
    except ProtocolError:
        return
    assert len(message) in (1, 9)
    assert all(type(field) is int for i, field in enumerate(message) if i != 3)


@pytest.mark.parametrize(
    "message",
    [
        {},
        [],
        [1] * 8,
        [1] * 10,
        [1, 2, 3.5, 4, 5, 6, 7, 8, 9],
        [1, 0, 5, b"bytes in a hypercall", 0, 0, 0, 0, 0],
        [1, 0, Request.CRASH, 0, b"not the reason", 0, 0, 0, 0],
        [[[[1]]]] * 9,
        "text",
        7,
        [True] * 9,
        [-1],
        *([*range(1, i), -1, *range(i, 9)] for i in (1, 2, 4, 5, 6, 7, 8, 9)),
        [1, 0, -9, 0, 0, 0, 0, 0, 0],
        msgpack.ExtType(1, b"x"),
    ],
)
def test_a_malformed_message_is_refused(message: object) -> None:
    with pytest.raises(ProtocolError):
        unpack_request(msgpack.packb(message))


def test_an_oversized_message_is_refused_unread() -> None:
    with pytest.raises(ProtocolError):
        unpack_request(bytes(MAX_MESSAGE + 1))


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ProtocolError):
        unpack_request(b"\x91" * 10_000)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4095), st.integers(0, 31)), max_size=60))
def test_no_event_is_lost_or_invented_by_the_mailbox(steps: list[tuple[bool, int, int]]) -> None:
    """Each vCPU takes what was raised for it, and only that."""
    fd = create_memfd("mailbox", MAILBOX_FRAMES)
    core, process = Mailbox(fd), Mailbox(fd)
    core.set_vcpus(32)
    pending: list[set[int]] = [set() for _ in range(32)]
    for take, port, vcpu in steps:
        if take:
            assert set(process.take_raised(vcpu)) == pending[vcpu]
            pending[vcpu].clear()
        else:
            before = process.counter(vcpu)
            core.raise_port(port, vcpu)
            assert process.counter(vcpu) == before + 1
            pending[vcpu].add(port)
        assert core.is_raised(port) == any(port in ports for ports in pending)
    core.close()
    process.close()

    os.close(fd)
