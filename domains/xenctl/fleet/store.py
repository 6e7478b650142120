"""The images that a host has, by what is in them: <folder>/<SHA-256>/image, or image.py. A file is there whole, or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def stored_as(name: str) -> str:
    """What a file of this name is called in the store. A Python guest's keeps the ending by which it is known."""
    return "image.py" if name.endswith(".py") else "image"


class Refused(Exception):
    """What was sent cannot be kept. `str()` is one line."""


def default_store() -> Path:
    """Where images are kept unless a fleet says otherwise; the hosts of one user on one computer share it."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "xenoscope" / "fleet"


class Arriving:
    """A file that is being sent."""

    def __init__(self, folder: Path, digest: str, name: str) -> None:
        """Raises OSError."""
        self._final = folder / digest
        self._name = name
        self._digest = digest
        self._hash = hashlib.sha256()
        self._size = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(dir=folder, prefix=".arriving-"))
        self._file = (self._folder / stored_as(name)).open("wb")

    def write(self, offset: int, data: bytes) -> None:
        """The next piece; one that has come before, from another sender, changes nothing. Raises Refused, OSError."""
        if offset + len(data) <= self._size and data:
            return
        if offset != self._size:
            raise Refused(f"a piece of {self._name} is missing")
        self._file.write(data)
        self._hash.update(data)
        self._size += len(data)

    def finish(self) -> None:
        """All of it has come. Raises Refused if it is not what its hash says, OSError."""
        self._file.close()
        if self._hash.hexdigest() != self._digest:
            raise Refused(f"{self._name} arrived altered")
        with suppress(OSError):  # it has come by another way meanwhile
            self._folder.rename(self._final)
        self.give_up()

    def give_up(self) -> None:
        """Leave nothing of what came. Idempotent."""
        self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class Store:
    """One folder of images."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arriving: dict[str, Arriving] = {}

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of these that are not here."""
        return [digest for digest in digests if not self._has(digest)]

    def stored(self, digests: Iterable[str]) -> dict[str, Path]:
        """The folder of each that is here."""
        return {digest: self._folder / digest for digest in digests if self._has(digest)}

    def _has(self, digest: str) -> bool:
        return DIGEST.fullmatch(digest) is not None and (self._folder / digest).is_dir()

    def put(self, digest: str, name: str, offset: int, data: bytes, *, last: bool) -> None:
        """A piece of a file that comes in order, from its beginning on, perhaps from several senders. Raises Refused, OSError;
        nothing of the file is kept then.
        """
        if DIGEST.fullmatch(digest) is None:
            raise Refused("an image has an impossible hash")
        if self._has(digest):
            return
        arriving = self._arriving.get(digest)
        try:
            if arriving is None:
                arriving = self._arriving[digest] = Arriving(self._folder, digest, name)
            arriving.write(offset, data)
            if last:
                arriving.finish()
        except (Refused, OSError):
            self._arriving.pop(digest, None)
            if arriving is not None:
                arriving.give_up()
            raise
        if last:
            del self._arriving[digest]

    def close(self) -> None:
        """Leave nothing half arrived."""
        for arriving in self._arriving.values():
            arriving.give_up()
        self._arriving.clear()
