"""Captures of an interface, and what pcap's readers find in them."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from types import TracebackType

from drivers.net.pcap import MAGIC_NANOSECONDS, pcap_file_header, pcap_record_header
from tests.machines import REPOSITORY, XENCTL, Machine, wait_until


class Capture:
    """`with Capture(machine, "name", path) as capture:` has a domain's interface recorded, or a bridge
    ("--bridge=xenbr0"); `said` is what it said.
    """

    def __init__(self, machine: Machine, what: str, path: Path) -> None:
        self.said = ""
        command = [*XENCTL, "network-capture", what, "-w", str(path)]
        self.process = subprocess.Popen(
            command, env=machine.environment, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
        )
        self._path = path

    def __enter__(self) -> Capture:
        wait_until(
            lambda: self._path.exists() and self._path.stat().st_size >= pcap_file_header.sizeof,
            what="the capture",
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ctrl-C, unless it has ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.finish()

    def finish(self) -> None:
        """Wait for the end of what is recorded: the interface's."""
        try:
            self.said += self.process.communicate(timeout=20)[1] or ""
        finally:
            self.process.kill()
            self.process.wait()
        assert self.process.returncode == 0


def frames_of(data: bytes) -> list[bytes]:
    """The frames in a pcap file; every header as it must be."""
    header = pcap_file_header.unpack(data)
    assert (header.magic, header.version_major, header.linktype) == (MAGIC_NANOSECONDS, 2, 1)
    frames, at = [], pcap_file_header.sizeof
    while at < len(data):
        record = pcap_record_header.unpack(data[at:])
        at += pcap_record_header.sizeof
        assert record.incl_len == record.orig_len <= len(data) - at
        frames.append(data[at : at + record.incl_len])
        at += record.incl_len
    return frames


def tshark(path: Path, wanted: str) -> list[str]:
    """A line for each packet that a display filter matches; checksums are checked."""
    checks = [f"{layer}.check_checksum:TRUE" for layer in ("tcp", "udp", "ip")]
    options = [word for check in checks for word in ("-o", check)]
    command = ["tshark", "-r", str(path), "-Y", wanted, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()


def faults(path: Path) -> list[str]:
    """Packets that are malformed or damaged. Such as come twice, after a queue had been full, are none."""
    bad_sums = " || ".join(f"{layer}.checksum.status == Bad" for layer in ("tcp", "udp", "ip", "icmp"))
    return tshark(path, f"_ws.malformed || {bad_sums}")
