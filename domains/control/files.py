"""Files that a user names: they may be anything, a device that never ends too."""

from __future__ import annotations

from pathlib import Path


def read_at_most(path: Path, characters: int, errors: str = "strict") -> str:
    """The text of a file as it is, ends of lines included, and one character more than `characters` of a longer one, for its
    reader to refuse.

    `errors` as of `open`. Raises OSError, and UnicodeDecodeError if `errors` is strict.
    """
    with path.open(encoding="utf-8", errors=errors, newline="") as file:
        return file.read(characters + 1)
