"""Files that the laboratory writes: whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from domains.lab.image import LabError


def check_folder(folder: Path) -> None:
    """Before anything is run: files can be written there, and the folder be made if there is none. LabError."""
    there = folder
    while not there.exists() and not there.is_symlink() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise LabError(f"{there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise LabError(f"{there} cannot be written")


def check_file(file: Path) -> None:
    """Before anything is run: this file can be written. LabError."""
    if file.is_dir():
        raise LabError(f"{file} is a folder")
    check_folder(file.parent)


def write_file(file: Path, data: bytes) -> None:
    """Put it in its place, whose folder is made if need be. LabError."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=file.parent, prefix=".")
    except OSError as error:
        raise LabError(f"{file} cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, file)
    except OSError as error:
        os.unlink(name)
        raise LabError(f"{file} cannot be written: {error.strerror}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
