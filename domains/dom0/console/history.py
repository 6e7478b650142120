"""What a console has said, bounded: the newest bytes, under positions that only grow."""

from typing import Final

HISTORY_SIZE: Final = 1 << 20
"""Bytes kept of one domain's output; the oldest go first."""


class History:
    """Bytes [start, end) of a stream that began at 0; `start` moves up as old bytes are dropped."""

    def __init__(self, size: int = HISTORY_SIZE) -> None:
        self._size = size
        self._data = bytearray()
        self._start = 0

    @property
    def start(self) -> int:
        """The position of the oldest byte that is kept."""
        return self._start

    @property
    def end(self) -> int:
        """The position behind the newest byte."""
        return self._start + len(self._data)

    def append(self, data: bytes) -> None:
        """Keeps these bytes, and forgets the oldest where there are too many."""
        self._data += data
        surplus = len(self._data) - self._size
        if surplus > 0:
            del self._data[:surplus]
            self._start += surplus

    def read(self, position: int, limit: int) -> tuple[bytes, int]:
        """At most `limit` bytes from `position`, or from the oldest kept; and the position after them."""
        at = max(position, self._start) - self._start
        data = bytes(self._data[at : at + limit])
        return data, self._start + at + len(data)
