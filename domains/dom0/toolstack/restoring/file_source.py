"""A stream that comes from a file of the host's."""

from __future__ import annotations

from domains.dom0.toolstack.read_file import ReadFile
from domains.dom0.toolstack.stream.ends import Bytes
from domains.dom0.toolstack.stream.errors import EndOfStream
from domains.kernel.tasks import Task


class FileSource:
    """A Source."""

    def __init__(self, file: ReadFile) -> None:
        self._file = file

    def read(self, size: int) -> Task[Bytes]:
        """See Source."""
        data = yield from self._file.read(size)
        if len(data) < size:
            raise EndOfStream(f"{len(data)} bytes are left, not {size}")
        return data
