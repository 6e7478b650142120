"""What this machine has decided about domains that came to it, kept on the disk: a file for each that runs here.

    $XDG_STATE_HOME/xenoscope/migrations/<machine>/<migration's id>

The file is written, to the disk itself, before the domain runs, and goes when the source has said that its own is gone. So a
machine that was killed and started again still knows that a domain has run here. A source that never comes back leaves a file;
MOST of them are kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from domains.dom0.toolstack.written_file import sync_folder
from drivers.block.aside import Aside, Watcher

MOST: Final = 1000


class Journal:
    """One per Dom0. A thread does what a disk makes one wait for."""

    def __init__(self, watcher: Watcher, folder: Path) -> None:
        self._folder = folder
        self._aside = Aside(watcher)

    def has(self, migration: str) -> bool:
        """Whether the domain of that migration has run here."""
        return (self._folder / migration).exists()

    def write(self, migration: str, done: Callable[[OSError | None], None]) -> None:
        """Remember that the domain runs here; `done(None)` when that is on the disk, or with why it is not."""
        self._aside.submit(lambda: write(self._folder, migration), done)

    def forget(self, migration: str) -> None:
        """Nobody will ask any more."""

        def remove() -> None:
            with suppress(OSError):
                (self._folder / migration).unlink()
                self._folder.rmdir()  # unless there are others

        self._aside.submit(remove, lambda _error: None)

    def close(self) -> None:
        """Wait for what is under way."""
        self._aside.close()


def journal_folder(machine: str) -> Path:
    """Where a machine's decisions lie, and stay when it ends."""
    state = os.environ.get("XDG_STATE_HOME", "") or os.path.expanduser("~/.local/state")
    return Path(state if state.startswith("/") else "/var/tmp") / "xenoscope" / "migrations" / machine


def write(folder: Path, migration: str) -> None:
    """Make the file, and see that it outlives the host. Raises OSError; then it is not there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / migration
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, b"it runs here\n")
        os.fsync(fd)
        sync_folder(folder)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(fd)
    for old in sorted(folder.iterdir(), key=lambda entry: entry.stat().st_mtime)[:-MOST]:
        old.unlink(missing_ok=True)
