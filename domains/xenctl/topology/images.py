"""Disk images, made on demand: sparse, copied, with a file system; whole or not at all.

An image is made beside its place under another name and renamed when it is complete, so what is there is usable.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import UUID

from domains.control.protocol import ControlError, Exit
from domains.xenctl.topology.expand import Image
from hypervisor.machine.clock import VIRTUAL_BOOT_WALL_NS

CHUNK: Final = 1 << 20


def make_image(image: Image, seed: int | None = None) -> bool:
    """Make an image unless it is there; whether it was made. With `seed` its content is always the same. Raises ControlError."""
    if image.path.exists():
        return False
    unfinished = image.path.with_name(f".{image.path.name}.{os.getpid()}")
    try:
        image.path.parent.mkdir(parents=True, exist_ok=True)
        fill(unfinished, image, seed)
        unfinished.rename(image.path)
    except OSError as error:
        where = error.filename or image.path
        raise ControlError(Exit.FAILURE, f"cannot make disk {where}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            unfinished.unlink()
    return True


def fill(path: Path, image: Image, seed: int | None = None) -> None:
    """Write the image's content to `path`. Raises OSError, ControlError."""
    path.touch(mode=0o600)
    if image.copy_of is not None:
        copy_sparse(image.copy_of, path)
    size = path.stat().st_size
    if image.size is not None and image.size < size:
        raise ControlError(
            Exit.FAILURE,
            f"disk {image.path}: {image.copy_of} has {size} bytes, more than its size {image.size}",
        )
    if image.size is not None:
        os.truncate(path, image.size)
    if image.filesystem is not None:
        make_filesystem(path, image.filesystem, seed)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy what is data; holes stay holes."""
    with source.open("rb") as reader, target.open("r+b") as writer:
        size = os.fstat(reader.fileno()).st_size
        at = 0
        while at < size:
            try:
                start = os.lseek(reader.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: no data behind `at`
                break
            at = os.lseek(reader.fileno(), start, os.SEEK_HOLE)
            copy_range(reader.fileno(), writer.fileno(), start, at)
        os.truncate(writer.fileno(), size)


def copy_range(reader: int, writer: int, start: int, end: int) -> None:
    """Copies the bytes from `start` to `end` at the same offsets; ends early where the source does."""
    while start < end:
        data = os.pread(reader, min(CHUNK, end - start), start)
        if not data:
            return
        start += os.pwrite(writer, data, start)


def make_filesystem(path: Path, kind: str, seed: int | None = None) -> None:
    """Raises ControlError with the first line of what mkfs says."""
    program = shutil.which(f"mkfs.{kind}", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise ControlError(Exit.FAILURE, f"mkfs.{kind} is not installed; it is in Debian's e2fsprogs")
    options, environment = ["-q", "-F"], dict(os.environ)
    if seed is not None:  # the identifiers and times that mkfs would draw and look at
        uuid = UUID(int=seed)
        options += ["-U", str(uuid), "-E", f"hash_seed={uuid}"]
        environment["E2FSPROGS_FAKE_TIME"] = str(VIRTUAL_BOOT_WALL_NS // 10**9)
    done = subprocess.run(
        [program, *options, path],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
        raise ControlError(Exit.FAILURE, f"mkfs.{kind} failed: {reason}")
