"""Images of QEMU's formats: a qemu-nbd of the device's own serves them, and ends with the device in every case.

Real programs; in the last tests a server that says anything. Negative control: without the check of the cookie in nbd.py the test
of answers to nothing fails.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.block.nbd import NBD_OPT_GO, OPTION_REPLY_MAGIC, NbdImage
from drivers.block.qemu_nbd import QemuNbd
from tests.machines import Machine, wait_until

MIB = 1 << 20
pytestmark = [
    pytest.mark.needs_qemu_nbd,
    pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="needs qemu-utils"),
]


def qcow2(folder: Path, size: int = 4 * MIB) -> tuple[Path, Path]:
    """A qcow2 image and the raw one behind it, which is shorter and full of b."""
    base, image = folder / "base.img", folder / "disk.qcow2"
    base.write_bytes(b"b" * MIB)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", image, str(size)], check=True
    )
    return image, base


@contextmanager
def served(path: Path, format: str = "qcow2", mode: str = "w") -> Iterator[NbdImage]:
    server: QemuNbd = wait_until(lambda: started(path, format, mode), 10, "the lock of the one before")
    wait_until(server.has_spoken, 10, "qemu-nbd")
    image = server.image()
    try:
        yield image
    finally:
        image.close()
        wait_until(lambda: not servers(path), 10, "the end of qemu-nbd")


def started(path: Path, format: str, mode: str) -> QemuNbd | None:
    """A qemu-nbd, unless one that ends has the image still."""
    with suppress(BlockingIOError):
        return QemuNbd(str(path), format, mode)
    return None


def servers(path: Path) -> list[int]:
    """The processes that serve an image."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"qemu-nbd" in b" ".join(words) and os.fsencode(path) in words:
                found.append(int(process.name))
    return found


def read(image: NbdImage, sector: int, count: int) -> bytes:
    buffer = bytearray(count * 512)
    view = memoryview(buffer)
    image.read(sector, [view[:100], view[100:]], len(buffer))
    return bytes(buffer)


def test_what_is_written_grows_the_image_and_leaves_the_one_behind_it_alone(tmp_path: Path) -> None:
    path, base = qcow2(tmp_path)
    small = path.stat().st_blocks
    with served(path) as image:
        assert (image.sectors, image.writable, image.discards) == (4 * MIB // 512, True, True)
        assert read(image, 0, 8) == b"b" * 4096
        assert read(image, 4096, 8) == bytes(4096)
        image.write(6000, [memoryview(b"w" * 512), memoryview(b"x" * 1536)], 2048)
        image.flush()
        assert path.stat().st_blocks > small
    with served(path, mode="r") as image:
        assert not image.writable
        assert read(image, 5999, 6) == bytes(512) + b"w" * 512 + b"x" * 1536 + bytes(512)
        with pytest.raises(OSError, match=r"Invalid|permitted"):
            image.write(0, [memoryview(bytes(512))], 512)
    assert base.read_bytes() == b"b" * MIB


def test_what_is_discarded_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "4M"], check=True)
    with served(path) as image:
        image.write(0, [memoryview(b"d" * MIB)], MIB)
        image.flush()
        full = path.stat().st_blocks
        image.discard(0, MIB // 512)
        image.flush()
        assert path.stat().st_blocks < full
        assert read(image, 0, 8) == bytes(4096)


def test_a_vhd_is_read(tmp_path: Path) -> None:
    raw, path = tmp_path / "disk.img", tmp_path / "disk.vhd"
    raw.write_bytes(b"v" * MIB)
    subprocess.run(["qemu-img", "convert", "-O", "vpc", "-o", "force_size=on", raw, path], check=True)
    with served(path, "vhd") as image:
        assert read(image, 0, 2) == b"v" * 1024


def test_an_image_in_use_is_refused(tmp_path: Path) -> None:
    path, _ = qcow2(tmp_path)
    with served(path), pytest.raises(OSError, match="in use"):
        QemuNbd(str(path), "qcow2", "r")


def test_an_image_of_another_format_is_refused_in_the_programs_words(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(MIB))
    server = QemuNbd(str(path), "qcow2", "w")
    wait_until(server.has_spoken, 10, "qemu-nbd")
    with pytest.raises(OSError, match="not in qcow2 format"):
        server.image()
    wait_until(lambda: not servers(path), 10, "the end of qemu-nbd")


def test_an_image_that_is_behind_itself_is_refused_before_it_takes_much_and_in_few_words(
    tmp_path: Path,
) -> None:
    """Else QEMU opens it again and again, for minutes and in gigabytes, and its complaint is longer than a node of the store."""
    image, base = qcow2(tmp_path)
    base.unlink()
    shutil.copy(image, base)
    subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", base, base], check=True)
    server = QemuNbd(str(base), "qcow2", "r")
    wait_until(server.has_spoken, 30, "its complaint")
    with pytest.raises(OSError, match="Too many open files") as refused:
        server.image()
    assert len(str(refused.value)) < 1000
    wait_until(lambda: not servers(base), 10, "the end of qemu-nbd")


def test_without_the_program_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="install qemu-utils"):
        QemuNbd(str(tmp_path / "a"), "qcow2", "w")


def test_a_server_that_is_killed_is_an_error_and_not_a_wait(tmp_path: Path) -> None:
    path, _ = qcow2(tmp_path)
    with served(path) as image:
        for pid in servers(path):
            os.kill(pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(OSError, match="server"):
                read(image, 0, 1)


ORPHAN = """
import os, sys
from drivers.block.qemu_nbd import QemuNbd
server = QemuNbd(sys.argv[1], "qcow2", "w")
if sys.argv[2] == "served":
    while not server.has_spoken():
        pass
    server.image()
print("up", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("moment", ["served", "started"])
def test_when_dom0_is_killed_nothing_is_left_behind(tmp_path: Path, moment: str) -> None:
    path, _ = qcow2(tmp_path)
    words = [sys.executable, "-c", ORPHAN, str(path), moment]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        wait_until(lambda: servers(path), 10, "qemu-nbd")
        process.kill()
    wait_until(lambda: not servers(path), 10, "the end of qemu-nbd")


# --- a server that says anything -------------------------------------------------------------------


def reply(kind: int, body: bytes = b"") -> bytes:
    return struct.pack(">QIII", OPTION_REPLY_MAGIC, NBD_OPT_GO, kind, len(body)) + body


GREETING = b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)
EXPORT = reply(3, struct.pack(">HQH", 0, 1 << 20, 1)) + reply(1)


@contextmanager
def said(text: bytes) -> Iterator[socket.socket]:
    """A connection on whose other side somebody has said `text`, and is gone."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(text)
        theirs.shutdown(socket.SHUT_WR)
        yield ours


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=100).map(lambda rest: GREETING + rest)))
def test_a_server_that_says_anything_is_refused(text: bytes) -> None:
    with said(text) as connection, pytest.raises(OSError, match=r".+"):
        NbdImage(connection, "disk", writable=True)


@pytest.mark.parametrize("size", [0, 511, 513, (1 << 64) - 1])
def test_a_size_that_no_disk_has_is_refused(size: int) -> None:
    text = GREETING + reply(3, struct.pack(">HQH", 0, size, 1)) + reply(1)
    with said(text) as connection, pytest.raises(OSError, match="sector"):
        NbdImage(connection, "disk", writable=True)


@pytest.mark.parametrize("answer", [b"", struct.pack(">IIQ", 0x67446698, 0, 7), bytes(16), b"\xff" * 600])
def test_an_answer_to_nothing_ends_the_connection(answer: bytes) -> None:
    with said(GREETING + EXPORT + answer) as connection:
        image = NbdImage(connection, "disk", writable=True)
        for _ in range(2):
            with pytest.raises(OSError, match="server"):
                read(image, 0, 1)


# --- a machine ------------------------------------------------------------------------------------

GUEST = """
from drivers.block.front import BlockFront

class Probe(Guest):
    def main(self):
        device, = self.kernel.xenbus.directory("device/vbd")
        disk = BlockFront(self.kernel, f"device/vbd/{device}")
        disk.connect()
        print("begins with", disk.read(0, 1)[:3], "of", disk.sectors)
        for at in range(64):
            disk.submit_write(4096 + 8 * at, bytes([at]) * 4096, lambda status, data: None)
        disk.flush()
        read = [disk.read(4096 + 8 * at, 8) == bytes([at]) * 4096 for at in range(64)]
        disk.discard(4096, 8)
        print("all", all(read), "then", disk.read(4096, 1)[:1])
        self.kernel.sleep(600 if "stay" in self.kernel.cmdline else 0)
"""


def test_a_guest_works_on_a_qcow2_image_and_its_server_ends_with_it(
    clean_machine: Machine, tmp_path: Path
) -> None:
    path, base = qcow2(tmp_path)
    disk = f"disk = ['qcow2:{path},xvda,w']\n"
    done = clean_machine.guest(tmp_path, GUEST, "-c", extra=disk)
    assert f"begins with b'bbb' of {4 * MIB // 512}" in done.stdout, done.stdout + done.stderr
    assert "all True then b'\\x00'" in done.stdout
    wait_until(lambda: not servers(path), 10, "the end of qemu-nbd")
    clean_machine.guest(tmp_path, GUEST, extra=disk + "cmdline = 'stay'\n")
    assert servers(path)
    clean_machine.destroy("guest")
    wait_until(lambda: not servers(path), 10, "the end of qemu-nbd")
    assert base.read_bytes() == b"b" * MIB
    subprocess.run(["qemu-img", "check", "-q", path], check=True)


def test_a_qcow2_image_that_is_none_is_told_in_one_line_at_creation(
    clean_machine: Machine, tmp_path: Path
) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(bytes(MIB))
    done = clean_machine.guest(tmp_path, GUEST, extra=f"disk = ['{path},qcow2,xvda,w']\n")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "not in qcow2 format" in done.stderr
    assert not servers(path)
