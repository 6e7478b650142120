"""xenctl network-capture: what passes an interface, as a file that pcap's readers read."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from drivers.net.pcap import MAGIC_NANOSECONDS, pcap_file_header, pcap_record_header
from tests.drivers.net.on_machine.stations import GUESTS
from tests.machines import REPOSITORY, XENCTL, Machine, wait_until


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


def captured(machine: Machine, path: Path) -> None:
    """Capture at the web server while a client fetches its page, until the server is gone."""
    assert machine.xenctl("create", GUESTS / "webserver.cfg").returncode == 0
    command = [*XENCTL, "network-capture", "webserver", "-w", str(path)]
    capture = subprocess.Popen(
        command, env=machine.environment, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(
            lambda: path.exists() and path.stat().st_size >= pcap_file_header.sizeof, what="the capture"
        )
        done = machine.xenctl("create", "-c", GUESTS / "webclient.cfg")
        assert "200 OK" in done.stdout, done.stdout + done.stderr
        machine.xenctl("destroy", "webserver")
        _, said = capture.communicate(timeout=20)
        assert "0 dropped" in said
        assert capture.returncode == 0
    finally:
        capture.kill()
        capture.wait()


def test_a_capture_holds_both_directions_of_a_conversation(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "web.pcap"
    captured(machine, path)
    frames = frames_of(path.read_bytes())
    assert any(b"GET / HTTP/1.1" in frame for frame in frames)
    assert any(b"HTTP/1.0 200 OK" in frame for frame in frames)
    assert {frame[6:12] for frame in frames} == {frame[:6] for frame in frames} - {b"\xff" * 6}


def tshark(path: Path, wanted: str) -> list[str]:
    """A line for each packet that a display filter matches; checksums are checked."""
    checks = [f"{layer}.check_checksum:TRUE" for layer in ("tcp", "ip")]
    options = [word for check in checks for word in ("-o", check)]
    command = ["tshark", "-r", str(path), "-Y", wanted, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()


@pytest.mark.needs_tshark
def test_tshark_reads_a_capture_and_finds_nothing_wrong(machine: Machine, tmp_path: Path) -> None:
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")
    path = tmp_path / "web.pcap"
    captured(machine, path)
    assert len(tshark(path, "http.request.method == GET")) == 1
    assert len(tshark(path, "http.response.code == 200")) == 1
    assert tshark(path, "arp.opcode == 2")
    sound = "tcp.checksum.status == Good && ip.checksum.status == Good"
    assert len(tshark(path, sound)) == len(tshark(path, "tcp"))
    assert tshark(path, "_ws.malformed || tcp.analysis.lost_segment || _ws.expert.severity == error") == []


def test_a_capture_that_is_interrupted_leaves_a_whole_file(machine: Machine, tmp_path: Path) -> None:
    assert machine.xenctl("create", GUESTS / "webserver.cfg").returncode == 0
    path = tmp_path / "web.pcap"
    command = [*XENCTL, "network-capture", "webserver", "-w", str(path)]
    capture = subprocess.Popen(command, env=machine.environment, cwd=REPOSITORY)
    wait_until(lambda: path.exists() and path.stat().st_size >= pcap_file_header.sizeof, what="the capture")
    capture.send_signal(signal.SIGINT)
    assert capture.wait(20) == 0
    assert frames_of(path.read_bytes()) == []
    assert machine.xenctl("network-capture", "webserver", "1").returncode != 0
    done = machine.xenctl("create", "-c", GUESTS / "webclient.cfg")  # Dom0 forgets who no longer listens
    assert "200 OK" in done.stdout
