"""xenctl network-capture: what passes an interface, as a file that pcap's readers read."""

import shutil
from pathlib import Path

import pytest

from tests.drivers.net.captures import Capture, faults, frames_of, tshark
from tests.drivers.net.on_machine.stations import GUESTS
from tests.machines import Machine, wait_until

ARP = b"\x08\x06"


def captured(machine: Machine, path: Path) -> None:
    """Capture at the web server while a client fetches its page, until the server is gone."""
    assert machine.xenctl("create", GUESTS / "webserver.cfg").returncode == 0
    with Capture(machine, "webserver", path) as capture:
        done = machine.xenctl("create", "-c", GUESTS / "webclient.cfg")
        assert "200 OK" in done.stdout, done.stdout + done.stderr
        machine.xenctl("destroy", "webserver")
        capture.finish()
    assert "0 dropped" in capture.said


def test_a_capture_holds_both_directions_of_a_conversation(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "web.pcap"
    captured(machine, path)
    frames = frames_of(path.read_bytes())
    assert any(b"GET / HTTP/1.1" in frame for frame in frames)
    assert any(b"HTTP/1.0 200 OK" in frame for frame in frames)
    assert {frame[6:12] for frame in frames} == {frame[:6] for frame in frames} - {b"\xff" * 6}


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
    assert faults(path) == []
    assert tshark(path, "tcp.analysis.lost_segment || _ws.expert.severity == error") == []


def test_a_capture_that_is_interrupted_leaves_a_whole_file(machine: Machine, tmp_path: Path) -> None:
    assert machine.xenctl("create", GUESTS / "webserver.cfg").returncode == 0
    path = tmp_path / "web.pcap"
    with Capture(machine, "webserver", path):
        pass
    assert all(frame[12:14] == ARP for frame in frames_of(path.read_bytes()))  # the server announces itself
    assert machine.xenctl("network-capture", "webserver", "1").returncode != 0
    done = machine.xenctl("create", "-c", GUESTS / "webclient.cfg")  # Dom0 forgets who no longer listens
    assert "200 OK" in done.stdout


def test_a_capture_of_a_bridge_holds_each_frame_once(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "bridge.pcap"
    assert machine.xenctl("create", GUESTS / "webserver.cfg").returncode == 0
    with Capture(machine, "--bridge=xenbr0", path):
        done = machine.xenctl("create", "-c", GUESTS / "webclient.cfg")
        assert "200 OK" in done.stdout, done.stdout + done.stderr
        wait_until(lambda: b"HTTP/1.0 200 OK" in path.read_bytes(), what="the answer in the file")
    frames = frames_of(path.read_bytes())
    assert sum(b"GET / HTTP/1.1" in frame for frame in frames) == 1
    assert sum(b"HTTP/1.0 200 OK" in frame for frame in frames) == 1


def test_a_capture_of_nothing_that_is_there_is_refused(machine: Machine) -> None:
    unknown = machine.xenctl("network-capture", "--bridge", "nowhere")
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("xenctl: Dom0 has no bridge 'nowhere'; there are: ")
    assert machine.xenctl("network-capture").returncode == 2
