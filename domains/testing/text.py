"""A console as text: what a guest prints is bytes, of which it may print any number."""

from __future__ import annotations

import codecs
import re
from typing import Final

LIMIT: Final = 4 << 20
"""Characters that are kept, at least; twice as many at most."""


class ConsoleText:
    """All that was printed, lines ending with a newline alone. Positions count characters from the first one on, whether they are
    kept or not.
    """

    def __init__(self) -> None:
        self.begin = 0
        """The position of the first character that is kept."""
        self._text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._return = ""

    def feed(self, data: bytes) -> None:
        """The guest prints."""
        new = self._return + self._decoder.decode(data)
        self._return = "\r" if new.endswith("\r") else ""
        self._text += new.removesuffix("\r").replace("\r\n", "\n")
        if len(self._text) > 2 * LIMIT:
            self.begin += len(self._text) - LIMIT
            self._text = self._text[-LIMIT:]

    @property
    def end(self) -> int:
        """The position after the last character."""
        return self.begin + len(self._text)

    def since(self, position: int) -> str:
        """What is kept from there on."""
        return self._text[max(position - self.begin, 0) :]

    def find(self, pattern: re.Pattern[str], position: int) -> re.Match[str] | None:
        """Where the pattern matches first, from there on, in what is kept."""
        return pattern.search(self._text, max(position - self.begin, 0))

    def position_of(self, end: int) -> int:
        """The position of a match's end."""
        return self.begin + end
