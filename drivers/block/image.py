"""A disk image of the host as a row of sectors: what is behind a virtual block device.

Owns the descriptor and its lock. Sectors are 512 bytes; a transfer goes straight between the file and the
given views. Nothing is mapped, so a file that shrinks under a device is a short read, never a SIGBUS, and it
is not grown again: the size seen at the opening is a bound, and the size of now is another.

The lock (flock, shared for reading, exclusive for writing) keeps two devices, and two machines, from writing
one image; a mode with "!" does without, as the toolstack's "w!" asks.
"""

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Sequence
from typing import Final

from drivers.block.protocol import SECTOR_SIZE

FALLOC_FL_KEEP_SIZE: Final = 0x01
FALLOC_FL_PUNCH_HOLE: Final = 0x02

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

VectorCall = Callable[[int, Sequence[memoryview], int], int]
"""os.preadv or os.pwritev: descriptor, views, offset in bytes; the number of bytes done."""


class Image:
    """One open image. Every method that touches the file raises OSError when the host refuses."""

    waits: Final = False
    """Whether everything but a read of what is in memory takes long; then it is done by the device's thread."""

    def __init__(self, path: str, mode: str, *, locked: bool = True) -> None:
        """Open `path`; `mode` as in xl's disk line: "r" or "w", with "!" to share it against the lock. Without `locked` the lock
        is taken later, by `lock`.
        """
        self.path = path
        self.writable = self.discards = mode.startswith("w")
        access = os.O_RDWR if self.writable else os.O_RDONLY
        self._fd = os.open(path, access | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hold up its opener
        try:
            kind = os.fstat(self._fd).st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
                raise OSError(errno.EINVAL, "neither a file nor a block device")
            self.shared = mode.endswith("!")
            if locked:
                self.lock()
            self._regular = stat.S_ISREG(kind)
            self._no_wait = os.RWF_NOWAIT
            size = os.lseek(self._fd, 0, os.SEEK_END)
            self.sectors = size // SECTOR_SIZE
            if not self.sectors:
                raise OSError(errno.EINVAL, f"has {size} bytes, less than a sector of {SECTOR_SIZE}")
        except OSError as error:
            os.close(self._fd)
            in_use = isinstance(error, BlockingIOError)
            why = "in use by another device or machine" if in_use else error.strerror
            raise OSError(error.errno, why, path) from error

    def lock(self) -> None:
        """Take the lock, unless it is shared against it. BlockingIOError: somebody else has it."""
        if not self.shared:
            fcntl.flock(self._fd, (fcntl.LOCK_EX if self.writable else fcntl.LOCK_SH) | fcntl.LOCK_NB)

    def read_at_once(self, sector: int, pages: Sequence[memoryview], size: int) -> bool:
        """Do as `read` does, unless that would wait for the disk: then False, and some of `pages` may be filled. A file
        system that cannot tell waits.
        """
        try:
            return os.preadv(self._fd, pages, sector * SECTOR_SIZE, self._no_wait) == size
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP or not self._no_wait:
                raise
            self._no_wait = 0
            return self.read_at_once(sector, pages, size)

    def read(self, sector: int, pages: Sequence[memoryview], size: int) -> None:
        """Fill `pages`, `size` bytes in all, from `sector` on."""
        self._transfer(os.preadv, sector * SECTOR_SIZE, pages, size)

    def write(self, sector: int, pages: Sequence[memoryview], size: int) -> None:
        """Store `pages`, `size` bytes in all, from `sector` on; an image cut short is not grown again."""
        if self._regular and os.fstat(self._fd).st_size < sector * SECTOR_SIZE + size:
            raise OSError(f"{self.path} has become shorter than its device")
        self._transfer(os.pwritev, sector * SECTOR_SIZE, pages, size)

    def _transfer(self, call: VectorCall, offset: int, pages: Sequence[memoryview], size: int) -> None:
        done = call(self._fd, pages, offset)
        while done < size:
            rest = tail(pages, done)
            more = call(self._fd, rest, offset + done)
            if more == 0:
                raise OSError(f"{self.path} ends at byte {offset + done}, before its device does")
            done += more

    def flush(self) -> None:
        """Make what was written durable (fdatasync)."""
        os.fdatasync(self._fd)

    def discard(self, sector: int, count: int) -> None:
        """Give the sectors' space back to the host; they read as zeros."""
        mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        if _libc.fallocate(self._fd, mode, sector * SECTOR_SIZE, count * SECTOR_SIZE) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    def close(self) -> None:
        """Let go of the file and its lock."""
        os.close(self._fd)


def tail(pages: Sequence[memoryview], skip: int) -> list[memoryview]:
    """The views without their first `skip` bytes."""
    rest = list(pages)
    while rest and skip >= len(rest[0]):
        skip -= len(rest.pop(0))
    if skip:
        rest[0] = rest[0][skip:]
    return rest
