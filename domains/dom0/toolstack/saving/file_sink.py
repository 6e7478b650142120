"""A stream that goes into a file of the host's, with its checksums behind it."""

from __future__ import annotations

from collections.abc import Sequence

from domains.dom0.toolstack.stream.checksums import Sums
from domains.dom0.toolstack.stream.ends import Bytes
from domains.dom0.toolstack.written_file import WrittenFile
from domains.kernel.tasks import Task


class FileSink:
    """A Sink; `size`: how many bytes it has taken."""

    def __init__(self, file: WrittenFile) -> None:
        self._file = file
        self._sums = Sums()
        self.size = 0

    def write(self, parts: Sequence[Bytes]) -> Task[None]:
        """See Sink."""
        self.size += sum(map(len, parts))

        def work() -> None:
            self._sums.add(parts)
            self._file.append(parts)

        return self._file.do(work)

    def finish(self) -> Task[None]:
        """The stream is whole, and so is the file. ToolstackError."""
        yield from self._file.write([self._sums.pack()])
        yield from self._file.do(self._file.finish)
