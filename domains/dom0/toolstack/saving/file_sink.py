"""A stream that goes into a file of the host's."""

from __future__ import annotations

from collections.abc import Sequence

from domains.dom0.toolstack.stream.ends import Bytes
from domains.dom0.toolstack.written_file import WrittenFile
from domains.kernel.tasks import Task


class FileSink:
    """A Sink; `size`: how many bytes it has taken."""

    def __init__(self, file: WrittenFile) -> None:
        self._file = file
        self.size = 0

    def write(self, parts: Sequence[Bytes]) -> Task[None]:
        """See Sink."""
        self.size += sum(map(len, parts))
        return self._file.write(parts)
