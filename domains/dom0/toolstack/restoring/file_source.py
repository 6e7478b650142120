"""A stream that comes from a file of the host's, whose checksums are looked at if it has any."""

from __future__ import annotations

from typing import Final

from domains.dom0.toolstack.read_file import ReadFile
from domains.dom0.toolstack.stream import checksums
from domains.dom0.toolstack.stream.checksums import FOOTER, Altered, Checking
from domains.dom0.toolstack.stream.ends import Bytes
from domains.dom0.toolstack.stream.errors import EndOfStream
from domains.kernel.tasks import Task

SMALL: Final = 1 << 16
"""Bytes whose checksum is made at once, and not by the thread."""


class FileSource:
    """A Source."""

    def __init__(self, file: ReadFile) -> None:
        self._file = file
        self._checking: Checking | None = None

    def open(self) -> Task[None]:
        """Begin. ToolstackError: there is no such file, or its checksums are none."""
        file = self._file
        yield from file.do(file.open)
        footer = yield from file.last(FOOTER.size)
        size = checksums.size_of(footer)
        if size is not None:
            both = yield from file.last(size + FOOTER.size)
            self._checking = Checking(checksums.unpack(both[: -FOOTER.size], footer))

    def read(self, size: int) -> Task[Bytes]:
        """See Source. Altered: it is not as it was written."""
        data = yield from self._file.read(size)
        if len(data) < size:
            raise EndOfStream(f"{len(data)} bytes are left, not {size}")
        yield from self._check(data)
        return data

    def _check(self, data: memoryview) -> Task[None]:
        checking = self._checking
        if checking is None:
            return
        if len(data) <= SMALL:
            checking.take(data)
            return
        altered: list[Altered] = []

        def work() -> None:
            try:
                checking.take(data)
            except Altered as found:  # a thread raises nothing
                altered.append(found)

        yield from self._file.do(work)
        if altered:
            raise altered[0]
