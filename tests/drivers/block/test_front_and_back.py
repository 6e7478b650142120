"""Block front and block back against each other: what is written is read, whatever comes in between."""

import os
import random
import resource
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.block.front import BlockFront
from drivers.block.protocol import SECTOR_SIZE, BlockError
from hypervisor.public.io.blkif import BLKIF_RSP_ERROR, BLKIF_RSP_OKAY
from hypervisor.public.io.xenbus import XenbusStateClosed
from tests.drivers.block.disk import Disks

MIB = 1 << 20


BACKENDS = pytest.mark.parametrize("backend", [0, 9])
"""Block back in Dom0, which maps rings and pages, and in a driver domain, which copies them."""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(3 * MIB))
    return path


def connected(disks: Disks, image: Path, mode: str = "w", domid: int = 1) -> BlockFront:
    guest = disks.guest(domid)
    front = BlockFront(guest.kernel, disks.attach(guest, image, mode))
    front.connect()
    return front


@BACKENDS
def test_a_guest_reads_what_the_image_holds(image: Path, backend: int) -> None:
    front = connected(Disks(backend), image)
    assert front.sectors == 3 * MIB // SECTOR_SIZE
    assert front.read(0, front.sectors) == image.read_bytes()
    assert front.read(3, 17) == image.read_bytes()[3 * 512 : 20 * 512]


@BACKENDS
def test_what_a_guest_writes_is_in_the_image_after_a_flush(image: Path, backend: int) -> None:
    front = connected(Disks(backend), image)
    data = os.urandom(2 * MIB + 512)
    front.write(7, data)
    front.flush()
    assert image.read_bytes()[7 * 512 : 7 * 512 + len(data)] == data
    assert front.read(7, len(data) // 512) == data


def test_discarded_sectors_read_as_zeros(image: Path) -> None:
    front = connected(Disks(), image)
    front.discard(8, 80)
    assert front.read(0, 96) == image.read_bytes()[: 96 * 512]
    assert front.read(8, 80) == bytes(80 * 512)


def test_nothing_beyond_the_disk_can_be_read_or_written(image: Path) -> None:
    front = connected(Disks(), image)
    before = image.read_bytes()
    with pytest.raises(BlockError):
        front.read(front.sectors - 1, 2)
    with pytest.raises(BlockError):
        front.write(front.sectors, bytes(512))
    assert image.read_bytes() == before


@BACKENDS
def test_a_read_only_disk_is_known_as_such_and_cannot_be_written(image: Path, backend: int) -> None:
    front = connected(Disks(backend), image, mode="r")
    before = image.read_bytes()
    assert front.read_only
    attempts: list[Callable[[], None]] = [lambda: front.write(0, bytes(512)), lambda: front.discard(0, 8)]
    for attempt in attempts:
        with pytest.raises(BlockError):
            attempt()
    assert image.read_bytes() == before


def test_a_disk_whose_image_cannot_be_opened_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(BlockError, match="No such file"):
        connected(Disks(), tmp_path / "absent.img")


def test_one_image_is_not_written_by_two_guests(image: Path) -> None:
    disks = Disks()
    first = connected(disks, image)
    with pytest.raises(BlockError, match="in use"):
        connected(disks, image, domid=2)
    first.close()
    third = connected(disks, image, domid=3)
    assert third.read(0, 8) == image.read_bytes()[:4096]


def test_a_disk_that_is_full_is_an_error_for_the_guest_alone(image: Path) -> None:
    front = connected(Disks(), image)
    os.truncate(image, 8 * MIB)
    large = connected(Disks(), image, mode="w!")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MIB, hard))
    try:
        with pytest.raises(BlockError):
            large.write(5 * MIB // 512, bytes(4096))
        front.write(0, b"x" * 512)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert large.read(0, 1) == b"x" * 512


@BACKENDS
def test_requests_beyond_ring_and_pages_wait_and_all_complete(image: Path, backend: int) -> None:
    disks = Disks(backend)
    guest = disks.guest(1)
    front = BlockFront(guest.kernel, disks.attach(guest, image), max_pages=40)
    front.connect()
    contents = image.read_bytes()
    answers: dict[int, tuple[int, bytes]] = {}

    def keep(at: int, status: int, data: bytes) -> None:
        answers[at] = (status, data)

    for sector in range(0, 800, 8):
        front.submit_read(sector, 8, partial(keep, sector))
    assert guest.wait(lambda: len(answers) == 100)
    for sector, (status, data) in answers.items():
        assert status == BLKIF_RSP_OKAY
        assert data == contents[sector * 512 : sector * 512 + 4096]
    assert front.read(0, 2048) == contents[:MIB]


@BACKENDS
def test_closing_gives_everything_back(image: Path, backend: int) -> None:
    disks = Disks(backend)
    guest = disks.guest(1)
    path = disks.attach(guest, image)
    disks.machine.settle()
    before = disks.machine.census()
    front = BlockFront(guest.kernel, path)
    for _ in range(3):
        front.connect()
        front.write(0, os.urandom(MIB))
        assert front.read(0, 2048) == image.read_bytes()[:MIB]
        front.close()
        disks.machine.settle()
        assert disks.state(guest) == str(int(XenbusStateClosed))
        assert disks.machine.census() == before


@BACKENDS
def test_a_guest_that_dies_leaves_nothing_held(image: Path, backend: int) -> None:
    disks = Disks(backend)
    guest = disks.guest(1)
    before = disks.machine.census()
    front = BlockFront(guest.kernel, disks.attach(guest, image))
    front.connect()
    for sector in range(0, 400, 8):
        front.submit_write(sector, b"y" * 4096, lambda status, data: None)
    guest.die()
    disks.detach(guest)
    disks.machine.settle()
    after = disks.machine.census()
    assert {**after, "frames": 0} == {**before, "frames": 0}, "all but the dead guest's own memory"
    assert disks.back.devices == {}
    assert connected(disks, image, domid=2).read(0, 8) == image.read_bytes()[:4096]


@BACKENDS
def test_requests_in_flight_fail_when_the_back_end_goes_away_and_the_front_can_come_back(
    image: Path, backend: int
) -> None:
    disks = Disks(backend)
    front = connected(disks, image)
    answers: list[int] = []
    for _ in range(50):
        front.submit_read(0, 8, lambda status, data: answers.append(status))
    disks.detach(disks.machine.domains[1])
    disks.machine.settle()
    assert len(answers) == 50
    assert set(answers) <= {int(BLKIF_RSP_OKAY), int(BLKIF_RSP_ERROR)}
    assert int(BLKIF_RSP_ERROR) in answers
    with pytest.raises(BlockError):
        front.read(0, 1)
    disks.attach(disks.machine.domains[1], image)
    front.connect()
    assert front.read(0, 8) == image.read_bytes()[:4096]


@BACKENDS
def test_the_toolstack_detaches_a_disk_in_use_after_its_requests(image: Path, backend: int) -> None:
    disks = Disks(backend)
    front = connected(disks, image)
    answers: list[int] = []
    for _ in range(50):
        front.submit_read(0, 8, lambda status, data: answers.append(status))
    disks.ask_to_close(disks.machine.domains[1])
    disks.machine.settle()
    assert answers == [int(BLKIF_RSP_OKAY)] * 50
    assert disks.state(disks.machine.domains[1]) == str(int(XenbusStateClosed))
    assert disks.machine.census()["pins"] == 0


def test_a_busy_guest_does_not_keep_another_from_its_disk(image: Path, tmp_path: Path) -> None:
    """The busy one resubmits for ever; the other's request is answered within a bounded number of steps."""
    second = tmp_path / "second.img"
    second.write_bytes(os.urandom(MIB))
    disks = Disks()
    busy, modest = connected(disks, image), connected(disks, second, domid=2)

    def again(status: int, data: bytes) -> None:
        busy.submit_read(0, 2048, again)

    for _ in range(32):
        busy.submit_read(0, 2048, again)
    answer: list[bytes] = []
    modest.submit_read(0, 8, lambda status, data: answer.append(data))
    for _ in range(20):
        disks.machine.step()
    assert answer == [second.read_bytes()[:4096]]


Write = st.tuples(st.booleans(), st.integers(0, 500), st.integers(1, 300))


@settings(max_examples=20, deadline=None)
@given(st.lists(Write, min_size=1, max_size=20), st.integers(0, 1 << 30))
def test_random_transfers_agree_with_a_row_of_bytes(steps: list[tuple[bool, int, int]], seed: int) -> None:
    fd = os.memfd_create("image")
    os.truncate(fd, 1000 * 512)
    disks, model, rng = Disks(), bytearray(1000 * 512), random.Random(seed)
    front = connected(disks, Path(f"/proc/self/fd/{fd}"))
    for write, sector, count in steps:
        if write:
            data = rng.randbytes(count * 512)
            model[sector * 512 : (sector + count) * 512] = data
            front.write(sector, data)
        else:
            assert front.read(sector, count) == model[sector * 512 : (sector + count) * 512]
    front.flush()
    assert os.pread(fd, len(model) + 1, 0) == model
    front.close()
    os.close(fd)
