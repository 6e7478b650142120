"""Real Xen in QEMU: one process, in whose Dom0 commands can be run and timed.

    with Peer(images) as peer:
        seconds = peer.run("xl list").seconds

QEMU emulates every instruction, as our engine does, and stands still (its guest's clock, too) while no command runs.
"""

from __future__ import annotations

import select
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from scripts.benchmarks.figure import Unavailable
from scripts.benchmarks.machine import memory_mib
from scripts.benchmarks.peer.images import Images
from scripts.benchmarks.peer.packages import last_line, qemu

CPUS: Final = 1
"""Xen does best with one here: two wait for each other on a busy host, and guests' TCP was fifteen times as slow."""
MEMORY_MIB: Final = 1024
DOM0_MIB: Final = 384
TIMEOUT: Final = 300.0
"""Seconds within which a command, and Dom0's start, must come to an end."""
PROMPT: Final = b"(qemu) "
READY: Final = b"ready\n"
KILLED: Final = -1
"""The status of a command that had said what was waited for."""


class PeerFailure(Unavailable):
    """Xen in QEMU did not do what it was asked for; the text ends with the last line that it said."""


@dataclass(frozen=True)
class Answer:
    """What a command in Dom0 took, by Dom0's clock, its exit status or KILLED, and what it said."""

    seconds: float
    status: int
    output: str


class Peer:
    """Use in a `with` block; `ready_seconds` is from QEMU's start until Dom0's toolstack answers."""

    def __init__(self, images: Images, disk: Path | None = None) -> None:
        self._images = images
        self._disk = disk

    def __enter__(self) -> Peer:
        self._folder = tempfile.TemporaryDirectory(prefix="xq-")
        start = time.perf_counter()
        self._process = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            self._serial = self._connect("serial")
            self._monitor = self._connect("monitor")
            self._read_until(self._monitor, PROMPT)
            self._read_until(self._serial, READY)
            self.run("xl list")
            self.ready_seconds = time.perf_counter() - start
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._serial.close()
        self._monitor.close()
        self._end()

    def run(self, command: str, until: str = "") -> Answer:
        """Have Dom0's shell run a command to its end, or until it has said this. PeerFailure if it fails."""
        self._tell("cont")
        self._serial.sendall(f"{until}\t{command}\n".encode())
        head, _, body = self._read_until(self._serial, b"\n").partition(b"\n")
        nanoseconds, status, length = map(int, head.split())
        while len(body) < length:
            body += self._read(self._serial)
        self._tell("stop")
        output = body.decode(errors="replace")
        if status != (KILLED if until else 0):
            raise PeerFailure(f"'{command}' in Dom0 ended with status {status}: {last_line(output)}")
        return Answer(nanoseconds / 1e9, status, output)

    def memory_mib(self) -> float:
        """QEMU's proportional set."""
        return memory_mib(Path(f"/proc/{self._process.pid}/smaps_rollup").read_text())[1]

    def console(self) -> str:
        """What Xen and Dom0's kernel have said."""
        return (Path(self._folder.name) / "console").read_text(errors="replace")

    def _command(self) -> list[str]:
        folder, images = self._folder.name, self._images
        disk = [] if self._disk is None else ["-drive", f"file={self._disk},format=raw,if=virtio"]
        return [
            *(qemu(), "-machine", "pc", "-accel", "tcg", "-cpu", "qemu64,+rdrand", "-smp", str(CPUS)),
            *("-m", str(MEMORY_MIB), "-display", "none", "-vga", "none", "-net", "none", "-no-reboot", *disk),
            *("-serial", f"file:{folder}/console", "-serial", f"unix:{folder}/serial,server=on,wait=off"),
            *("-monitor", f"unix:{folder}/monitor,server=on,wait=off", "-kernel", str(images.xen)),
            *("-append", f"com1=115200,8n1,0x3f8,0 console=com1 dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M"),
            *("-initrd", f"{images.kernel} console=hvc0 quiet,{images.initramfs}"),
        ]

    def _connect(self, name: str) -> socket.socket:
        """Connect to a socket of QEMU's as soon as it is there."""
        found = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                found.connect(f"{self._folder.name}/{name}")
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise PeerFailure(f"QEMU did not start: {self._last_words()}") from error
                time.sleep(0.01)
            else:
                return found

    def _tell(self, command: str) -> None:
        self._monitor.sendall(f"{command}\n".encode())
        self._read_until(self._monitor, PROMPT)

    def _read_until(self, channel: socket.socket, end: bytes) -> bytes:
        """What comes until, and a little after, `end`. PeerFailure if it does not come."""
        got = b""
        while end not in got:
            got += self._read(channel)
        return got

    def _read(self, channel: socket.socket) -> bytes:
        """What comes next."""
        ready, _, _ = select.select([channel], [], [], TIMEOUT)
        got = channel.recv(1 << 16) if ready else b""
        if not got:
            raise PeerFailure(f"nothing came from Dom0: {self._last_words()}")
        return got

    def _last_words(self) -> str:
        """QEMU's complaint if it has ended, or the last line of Xen's console."""
        if self._process.poll() is not None and self._process.stderr is not None:
            return last_line(self._process.stderr.read().decode(errors="replace"))
        return last_line(self.console())

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()
