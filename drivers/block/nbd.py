"""A disk image that another program serves, by the NBD protocol on a connected socket.

    server  "NBDMAGIC" "IHAVEOPT" flags                    client  flags, "IHAVEOPT" NBD_OPT_GO ""
    server  NBD_REP_INFO: size, flags; NBD_REP_ACK         then requests and simple replies, one at a time

It has the methods of an Image (image.py), and each of them waits for the server: `waits` says so, and the back end has them done
by the device's thread. What the server says is checked; after a fault the connection is closed, and everything is EIO.
Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md (its names are used).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Final

from drivers.block.protocol import SECTOR_SIZE

NBDMAGIC: Final = b"NBDMAGIC"
IHAVEOPT: Final = b"IHAVEOPT"
NBD_FLAG_FIXED_NEWSTYLE: Final = 1
NBD_FLAG_NO_ZEROES: Final = 2
NBD_OPT_GO: Final = 7
NBD_REP_ACK: Final = 1
NBD_REP_INFO: Final = 3
NBD_INFO_EXPORT: Final = 0
NBD_FLAG_READ_ONLY: Final = 2
NBD_FLAG_SEND_TRIM: Final = 1 << 5
NBD_REQUEST_MAGIC: Final = 0x25609513
NBD_SIMPLE_REPLY_MAGIC: Final = 0x67446698
NBD_CMD_READ, NBD_CMD_WRITE, NBD_CMD_DISC, NBD_CMD_FLUSH, NBD_CMD_TRIM = range(5)
OPTION_REPLY_MAGIC: Final = 0x3E889045565A9
HELLO: Final = 18
"""Bytes that the server begins with."""
MAX_OPTION_REPLY: Final = 4096
MAX_REPLIES: Final = 64
MAX_TRIM: Final = 1 << 30
HANDSHAKE_SECONDS: Final = 2.0
SECONDS: Final = 60.0
"""What the server may take to perform one request."""


class NbdImage:
    """An image on a connection. Every method that asks the server raises OSError when it refuses, or is gone."""

    waits: Final = True

    def __init__(self, connection: socket.socket, path: str, *, writable: bool) -> None:
        """Shakes hands with a server that has begun to speak. OSError: it is no such server."""
        self.path = path
        self._socket = connection
        self._lock = threading.Lock()
        self._cookie = 0
        connection.settimeout(HANDSHAKE_SECONDS)
        size, flags = self._shake_hands()
        connection.settimeout(SECONDS)
        if size % SECTOR_SIZE or not size:
            raise OSError(
                errno.EINVAL, f"has {size} bytes, which are not whole sectors of {SECTOR_SIZE}", path
            )
        self.sectors = size // SECTOR_SIZE
        self.writable = writable and not flags & NBD_FLAG_READ_ONLY
        self.discards = bool(flags & NBD_FLAG_SEND_TRIM) and self.writable

    def read_at_once(self, sector: int, pages: Sequence[memoryview], size: int) -> bool:
        """False: the server has to be asked."""
        return False

    def read(self, sector: int, pages: Sequence[memoryview], size: int) -> None:
        """Fill `pages`, `size` bytes in all, from `sector` on."""
        self._perform(NBD_CMD_READ, sector * SECTOR_SIZE, size, into=pages)

    def write(self, sector: int, pages: Sequence[memoryview], size: int) -> None:
        """Store `pages`, `size` bytes in all, from `sector` on."""
        self._perform(NBD_CMD_WRITE, sector * SECTOR_SIZE, size, data=pages)

    def flush(self) -> None:
        """Make what was written durable."""
        self._perform(NBD_CMD_FLUSH, 0, 0)

    def discard(self, sector: int, count: int) -> None:
        """Give the sectors' space back to the host."""
        if not self.discards:
            raise OSError(errno.EOPNOTSUPP, "the image cannot discard", self.path)
        at, end = sector * SECTOR_SIZE, (sector + count) * SECTOR_SIZE
        while at < end:
            size = min(end - at, MAX_TRIM)
            self._perform(NBD_CMD_TRIM, at, size)
            at += size

    def close(self) -> None:
        """Say good-bye, which ends a server that serves one client."""
        try:
            self._socket.sendall(self._request(NBD_CMD_DISC, 0, 0))
        except OSError:  # it is gone already
            pass
        finally:
            self._socket.close()

    # --- the protocol ----------------------------------------------------------------------------

    def _perform(
        self,
        command: int,
        offset: int,
        size: int,
        data: Sequence[memoryview] = (),
        into: Sequence[memoryview] = (),
    ) -> None:
        with self._lock:
            try:
                self._socket.sendall(self._request(command, offset, size))
                for view in data:
                    self._socket.sendall(view)
                magic, error, cookie = struct.unpack(">IIQ", self._take(16))
                if (magic, cookie) != (NBD_SIMPLE_REPLY_MAGIC, self._cookie):
                    raise self._broken("an answer to nothing")
                if not error:
                    for view in into:
                        self._fill(view)
            except OSError as refused:  # the rest of an answer would be taken for the next one
                self._socket.close()
                raise OSError(
                    errno.EIO, f"the server of the image: {refused.strerror or refused}", self.path
                ) from None
        if error:
            raise OSError(error, os.strerror(error), self.path)

    def _request(self, command: int, offset: int, size: int) -> bytes:
        self._cookie = (self._cookie + 1) & 0xFFFF_FFFF
        return struct.pack(">IHHQQI", NBD_REQUEST_MAGIC, 0, command, self._cookie, offset, size)

    def _shake_hands(self) -> tuple[int, int]:
        """The size in bytes and the transmission flags of the one export that there is."""
        hello = self._take(HELLO)
        flags = int.from_bytes(hello[16:], "big")
        if hello[:16] != NBDMAGIC + IHAVEOPT or not flags & NBD_FLAG_FIXED_NEWSTYLE:
            raise self._broken("no greeting")
        agreed = flags & (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)
        body = struct.pack(">IH", 0, 0)
        self._socket.sendall(
            struct.pack(">I", agreed) + IHAVEOPT + struct.pack(">II", NBD_OPT_GO, len(body)) + body
        )
        export: tuple[int, int] | None = None
        for _ in range(MAX_REPLIES):
            magic, option, kind, length = struct.unpack(">QIII", self._take(20))
            if magic != OPTION_REPLY_MAGIC or option != NBD_OPT_GO or length > MAX_OPTION_REPLY:
                raise self._broken("an answer to no option")
            said = self._take(length)
            if kind == NBD_REP_ACK and export is not None:
                return export
            if kind == NBD_REP_INFO and length == 12 and int.from_bytes(said[:2], "big") == NBD_INFO_EXPORT:
                size, transmission = struct.unpack(">QH", said[2:])
                export = size, transmission
            elif kind != NBD_REP_INFO:
                break
        raise self._broken("no export")

    def _take(self, size: int) -> bytes:
        buffer = bytearray(size)
        self._fill(memoryview(buffer))
        return bytes(buffer)

    def _fill(self, view: memoryview) -> None:
        while view:
            count = self._socket.recv_into(view)
            if not count:
                raise self._broken("it has ended")
            view = view[count:]

    def _broken(self, why: str) -> OSError:
        return OSError(errno.EPROTO, why, self.path)
