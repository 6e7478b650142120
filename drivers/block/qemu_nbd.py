"""Images in formats of QEMU's (qcow2 and others), served by a qemu-nbd of the device's own.

    Dom0  listen, connect ──┐ the listening socket as descriptor 3 (systemd's socket activation)
          posix_spawn ──────┴──► qemu-nbd: opens the image, accepts, serves this one client, and ends with it

The connection is made before the program runs: it serves the one client that is there, and ends when that is gone. For the
moment in which it has not yet shaken hands the kernel ends it when Dom0 dies (setpriv, of util-linux). The file is locked
as any image is (image.py), and by QEMU too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import shutil
import signal
import socket
import tempfile
import threading
from pathlib import Path
from typing import Final

from drivers.block.nbd import HELLO, NbdImage

QEMU_FORMATS: Final = {"qcow": "qcow", "qcow2": "qcow2", "vhd": "vpc", "qed": "qed"}
"""xl's names of formats, and QEMU's (libxl__qemu_disk_format_string)."""
PROGRAM: Final = "qemu-nbd"
LAST_SECONDS: Final = 5.0
"""What it may take to end by itself."""
MAX_SAID: Final = 1 << 16
MAX_COMPLAINT: Final = 500
"""Characters of what it said last that are passed on: a chain of images makes it long, and the store takes 4096 bytes."""
MAX_FILES: Final = 128
"""Descriptors it may have. An image that is behind itself would be opened again and again, with all the memory that takes."""


class QemuNbd:
    """One qemu-nbd. `image` is what it serves, once `ready`."""

    def __init__(self, path: str, format: str, mode: str) -> None:
        """Start it; `mode` as in xl's disk line. OSError: there is no such program, or the image is in use."""
        self._path = path
        self._writable = mode.startswith("w")
        program = shutil.which(PROGRAM)
        if program is None:
            raise OSError(
                errno.ENOENT, f"{format} needs {PROGRAM}, which is not there; install qemu-utils", path
            )
        self._lock = lock(path, mode)
        try:
            self._said = os.memfd_create(PROGRAM, os.MFD_CLOEXEC)
            listener, self.connection = connected_pair()
            try:
                self._pid = spawn(command(program, path, format, self._writable), listener, self._said)
            finally:
                listener.close()
            self._pidfd = os.pidfd_open(self._pid)
        except OSError:
            os.close(self._lock)
            raise

    def has_spoken(self) -> bool:
        """Whether it has begun to speak, or has ended."""
        try:
            said = self.connection.recv(HELLO, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return len(said) in (0, HELLO)

    def image(self) -> NbdImage:
        """What it serves, once it has spoken. OSError: it does not, and why."""
        try:
            return ServedImage(self)
        except OSError as error:
            why = (
                self._complaint()
                or error.strerror
                or "it has not opened the image, or one behind it, in time"
            )
            self.end()
            in_use = "lock" in why
            raise OSError(errno.EAGAIN if in_use else errno.EINVAL, f"{PROGRAM}: {why}", self._path) from None

    def end(self) -> None:
        """It ends, by itself or by force, and with it everything that is held for it. A thread sees to that."""
        self.connection.close()
        threading.Thread(target=self._see_it_end, name="disk", daemon=True).start()

    def _see_it_end(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the guest's vCPU
        if not select.select([self._pidfd], [], [], LAST_SECONDS)[0]:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        for fd in (self._pidfd, self._said, self._lock):
            os.close(fd)

    def _complaint(self) -> str:
        """The last line that it has written, without its own name."""
        select.select([self._pidfd], [], [], 0.1)
        lines = os.pread(self._said, MAX_SAID, 0).decode("utf-8", "replace").strip().splitlines()
        last = lines[-1].removeprefix(f"{PROGRAM}: ").removeprefix("Failed to blk_new_open ") if lines else ""
        return last if len(last) <= MAX_COMPLAINT else f"… {last[-MAX_COMPLAINT:]}"

    @property
    def path(self) -> str:
        """The image's path."""
        return self._path

    @property
    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self._writable


class ServedImage(NbdImage):
    """The image of a QemuNbd, which ends when the image is closed."""

    def __init__(self, server: QemuNbd) -> None:
        super().__init__(server.connection, server.path, writable=server.writable)
        self._server = server

    def close(self) -> None:
        """The server writes what it has, and ends."""
        super().close()
        self._server.end()


def lock(path: str, mode: str) -> int:
    """A descriptor that holds the lock on an image as image.py does. OSError: it is in use, or cannot be opened."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if mode.endswith("!"):
        return fd
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if mode.startswith("w") else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise OSError(errno.EAGAIN, "in use by another device or machine", path) from None
    return fd


def command(program: str, path: str, format: str, writable: bool) -> list[str]:
    """The words of the program. A shell tells it its own process's id, as socket activation wants, and does not start it when
    Dom0 died before the kernel was told to watch for that.
    """
    watched = [setpriv, "--pdeathsig", "KILL"] if (setpriv := shutil.which("setpriv")) else []
    script = f'[ "$PPID" = {os.getpid()} ] && ulimit -n {MAX_FILES} && LISTEN_PID=$$ exec "$@"'
    options = [f"--format={QEMU_FORMATS[format]}", "--discard=unmap", "--cache=writeback", "--shared=1"]
    if not writable:
        options.append("--read-only")
    return [*watched, "/bin/sh", "-c", script, "sh", program, *options, os.path.abspath(path)]


def connected_pair() -> tuple[socket.socket, socket.socket]:
    """A listening socket that nobody else can reach, and a connection to it that waits to be accepted."""
    listener = socket.socket(socket.AF_UNIX)
    connection = socket.socket(socket.AF_UNIX)
    with tempfile.TemporaryDirectory(prefix="xeno-nbd-") as folder:
        address = str(Path(folder) / "s")
        listener.bind(address)
        listener.listen(1)
        connection.connect(address)
    return listener, connection


def spawn(words: list[str], listener: socket.socket, said: int) -> int:
    """Start a program with the socket as its descriptor 3; its process id."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        return os.posix_spawn(
            words[0],
            words,
            {"PATH": os.environ.get("PATH", ""), "LISTEN_FDS": "1", "LC_ALL": "C"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, listener.fileno(), 3),
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, null, 1),
                (os.POSIX_SPAWN_DUP2, said, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD],
        )
    finally:
        os.close(null)
