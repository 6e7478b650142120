"""ZMTP as the core reads it: the bytes of one domain process, cut into messages. xenctl reads Dom0's answers by it, too:
to load libzmq would take longer than to ask. For the same reason nothing is imported here that takes a while, such as `typing`.

libzmq shows a message only when its last frame has come, and bounds neither how many frames that takes nor what they weigh
together: a process could make the core remember without end, by one message that never ends. It also has a thread of its own,
which is woken for each message. So the core takes the bytes as they come, and reads the frames here. A message is one frame of
at most MAX_MESSAGE bytes; the first byte of anything else ends the process's domain.

    greeting   FF, 8 bytes, 7F | version: 3, minor | "NULL", 16 × 0 | 32 bytes        64 bytes, each way
    handshake  04 | size u8  | 05 "READY" properties                                  a command, each way
    message    00 | size u8  | body
               02 | size u64, big-endian | body

Source: ZeroMQ RFC 23 (ZMTP 3.0).
"""

from __future__ import annotations

from hypervisor.wire.errors import ProtocolError

GREETING_SIZE = 64
SHORT, LONG, COMMAND = 0x00, 0x02, 0x04
"""First byte of a frame: a whole message with its size in one byte, or in eight; a command."""

_MECHANISM = b"NULL".ljust(20, b"\0")
_READY = b"\x05READY"


def handshake(socket_type: bytes) -> bytes:
    """All that an end which is such a socket (`ROUTER`, `DEALER`) says before its first message."""
    greeting = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + _MECHANISM
    command = _READY + b"\x0bSocket-Type" + len(socket_type).to_bytes(4, "big") + socket_type
    return greeting.ljust(GREETING_SIZE, b"\0") + bytes((COMMAND, len(command))) + command


OUR_HANDSHAKE = handshake(b"ROUTER")
"""The core's."""


_SHORT_HEADS = tuple(bytes((SHORT, size)) for size in range(256))
"""What comes before a message, by its size."""


def frame(data: bytes) -> bytes:
    """One message, as it goes over the connection."""
    size = len(data)
    if size < 256:
        return _SHORT_HEADS[size] + data
    return b"\x02" + size.to_bytes(8, "big") + data


class Incoming:
    """What has come of one connection and is not a whole message yet: never more than one message and one chunk. A message has
    `most` bytes at most. `ready`: the handshake is over; libzmq takes a message only after that.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = b""
        self.ready = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The messages that end in this chunk, in order. ProtocolError: the connection is not to be read any further."""
        if (
            self.ready
            and not self._held
            and len(chunk) > 1
            and chunk[0] == SHORT
            and chunk[1] == len(chunk) - 2
        ):
            return [chunk[2:]]
        held, at, messages = self._held + chunk, 0, []
        if not self.ready:
            at = self._handshake(held)
        while self.ready and (found := _frame(held, at, self._most, SHORT, LONG)) is not None:
            start, at = found
            messages.append(held[start:at])
        self._held = held[at:]
        return messages

    def _handshake(self, held: bytes) -> int:
        """Where the first message begins, once the greeting and READY have come; else 0."""
        if len(held) < GREETING_SIZE:
            return 0
        if held[0] != 0xFF or held[9] != 0x7F or held[10] < 3 or held[12:32] != _MECHANISM:
            raise ProtocolError("not the greeting of ZMTP 3")
        found = _frame(held, GREETING_SIZE, self._most, COMMAND)
        if found is None:
            return 0
        start, end = found
        if not held.startswith(_READY, start, end):
            raise ProtocolError("not the handshake of ZMTP 3")
        self.ready = True
        return end


def _frame(held: bytes, at: int, most: int, *kinds: int) -> tuple[int, int] | None:
    """Start and end of the frame that begins at `at`; None if some of it is still to come. ProtocolError if it is not of one of
    `kinds`, or too large."""
    if at == len(held):
        return None
    kind = held[at]
    if kind not in kinds:
        raise ProtocolError(f"a frame of kind {kind:#x}: one frame is a message, and nothing else is sent")
    start = at + (9 if kind == LONG else 2)
    if len(held) < start:
        return None
    size = int.from_bytes(held[at + 1 : start], "big")
    if size > most:
        raise ProtocolError(f"message of {size} bytes")
    return (start, start + size) if len(held) >= start + size else None
