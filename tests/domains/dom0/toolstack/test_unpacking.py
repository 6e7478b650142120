"""Kernels are unpacked in a process of its own: it has limits, its word is not trusted, and Dom0 goes on meanwhile.

Negative controls: a kernel within the limits is prepared by the same process; and with the unpacking in Dom0's loop the last
test sees one answer of the store at most, for Dom0 gives none until the kernel is unpacked.
"""

import bz2
import fcntl
import lzma
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import pytest

from domains.dom0.toolstack.builder.prepared import Prepared, Refused, decode
from domains.dom0.toolstack.builder.unpacker import serve
from domains.dom0.toolstack.builder.unpacking import Request, ask
from hypervisor.public.io.xs_wire import XS_READ
from hypervisor.public.types import PAGE_SIZE, PAGES_PER_MIB
from hypervisor.wire import descriptors
from tests.domains.dom0.store_socket import StoreSocket
from tests.domains.dom0.toolstack.elf_files import LINUX_NOTES, elf
from tests.machines import REPOSITORY, XENCTL, Machine

LINUX = elf(note_segment=LINUX_NOTES)
MEMORY = 32


@pytest.fixture
def unpacker() -> Iterator[socket.socket]:
    """Dom0's end of a process that unpacks kernels."""
    ours, theirs = descriptors.pair()
    code = (
        f"import socket; from {serve.__module__} import serve; serve(socket.socket(fileno={theirs.fileno()}))"
    )
    with subprocess.Popen([sys.executable, "-c", code], pass_fds=(theirs.fileno(),), cwd=REPOSITORY):
        theirs.close()
        yield ours
        ours.close()


def unpacked(unpacker: socket.socket, path: Path, ramdisk: str = "") -> Prepared:
    """What the process makes of a kernel, as Dom0 reads it."""
    memfd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    with ask(unpacker, Request("guest", str(path), ramdisk, MEMORY), memfd) as answer:
        _, (pidfd,), _, _ = socket.recv_fds(answer, 1, 1)
        os.close(pidfd)
        said = b"".join(iter(lambda: answer.recv(1 << 16), b""))
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    size = os.fstat(memfd).st_size
    pages = memoryview(mmap.mmap(memfd, 0, prot=mmap.PROT_READ)) if size else memoryview(b"")
    os.close(memfd)
    return decode(said, pages, MEMORY * PAGES_PER_MIB)


def test_the_process_prepares_kernel_and_ramdisk(unpacker: socket.socket, tmp_path: Path) -> None:
    kernel, ramdisk = tmp_path / "kernel", tmp_path / "ramdisk"
    kernel.write_bytes(bz2.compress(LINUX))
    ramdisk.write_bytes(b"files" * 2000)
    prepared = unpacked(unpacker, kernel, str(ramdisk))
    layout = prepared.plan
    assert layout.ramdisk is not None
    assert layout.ramdisk_bytes == 10_000
    pages = {run.pfn: bytes(prepared.data[run.offset : run.offset + PAGE_SIZE]) for run in prepared.runs}
    assert pages[layout.ramdisk.pfn][:10] == b"files" * 2
    assert any(page.startswith(b"code" * 100) for page in pages.values())


def test_a_kernel_that_takes_more_memory_to_unpack_than_it_may_is_refused(
    unpacker: socket.socket, tmp_path: Path
) -> None:
    """A dictionary of 768 MiB, which the packer itself is allowed."""
    packed = bytearray(lzma.compress(LINUX, lzma.FORMAT_ALONE))
    packed[1:5] = (768 << 20).to_bytes(4, "little")
    path = tmp_path / "kernel"
    path.write_bytes(packed)
    with pytest.raises(Refused, match="too much memory"):
        unpacked(unpacker, path)


def test_the_work_ends_when_nobody_wants_the_answer_any_more(unpacker: socket.socket, tmp_path: Path) -> None:
    """A fifo that nobody writes would hold it for ever."""
    fifo = tmp_path / "kernel"
    os.mkfifo(fifo)
    memfd = os.memfd_create("test")
    with ask(unpacker, Request("guest", str(fifo), "", MEMORY), memfd) as answer:
        _, (pidfd,), _, _ = socket.recv_fds(answer, 1, 1)
    with suppress(ProcessLookupError):  # it has ended already
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert select.select([pidfd], [], [], 30)[0]
    os.close(pidfd)
    os.close(memfd)
    kernel = tmp_path / "good"
    kernel.write_bytes(LINUX)
    assert unpacked(unpacker, kernel).runs, "the next kernel is served all the same"


def said(prepared: bytes, **changed: Any) -> bytes:
    """An answer in which something is changed."""
    answer: bytes = msgpack.packb(msgpack.unpackb(prepared) | changed)
    return answer


@pytest.mark.parametrize(
    "changed",
    [
        {"runs": [[1 << 40, 1, 0]]},
        {"runs": [[0, 1 << 40, 0]]},
        {"runs": [[0x200, 1, 1 << 40]]},
        {"runs": [[-1, 1, 0]]},
        {"runs": 5},
        {"segments": [[0, 1 << 62]]},
        {"segments": []},
        {"virt_base": "low"},
        {"entry": -1},
        {"ramdisk_bytes": 1 << 50},
        {"p2m_base": 1 << 70 >> 7},
        {"address_size": 16},
    ],
)
def test_what_a_process_says_that_a_kernel_has_taken_over_is_checked(changed: dict[str, Any]) -> None:
    base = 0xFFFF_FFFF_8000_0000
    good = msgpack.packb(
        {
            "segments": [[base + 0x20_0000, 0x1000]],
            "virt_base": base,
            "entry": base,
            "p2m_base": None,
            "unmapped_initrd": False,
            "hypercall_page": None,
            "address_size": 64,
            "extended_cr3": False,
            "ramdisk_bytes": 0,
            "runs": [[0x200, 1, 0]],
        }
    )
    pages = memoryview(bytes(PAGE_SIZE))
    assert decode(good, pages, MEMORY * PAGES_PER_MIB).runs
    with pytest.raises(ValueError, match=r"kernel|number|pages|bits"):
        decode(said(good, **changed), pages, MEMORY * PAGES_PER_MIB)


def test_the_store_answers_while_a_kernel_is_unpacked(shared_machine: Machine, tmp_path: Path) -> None:
    machine = shared_machine
    kernel = tmp_path / "kernel"
    kernel.write_bytes(bz2.compress(os.urandom(1 << 20) * 24))
    config = tmp_path / "guest.cfg"
    config.write_text(f'name = "slow"\nkernel = "{kernel}"\nmemory = 64\n')
    with (
        StoreSocket(machine.xenstored_path) as store,
        subprocess.Popen(
            [*XENCTL, "create", str(config)], env=machine.environment, stderr=subprocess.PIPE, text=True
        ) as creation,
    ):
        answers = 0
        while creation.poll() is None:
            store.ask(XS_READ, b"/local/domain/0/name")
            answers += 1
            if answers % 100 == 0:
                assert machine.xenctl("list").returncode == 0
        assert creation.stderr is not None
        assert "neither an ELF file nor a bzImage" in creation.stderr.read()
    assert answers > 100
