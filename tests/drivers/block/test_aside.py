"""A disk that stands still holds up its own requests alone: what waits for it is put aside (drivers/block/aside.py).

The image is a file of the host's. That its disk stands still is played where the host is asked: what lies from sector FAR on is
not in the host's memory, and to read it, and to flush, takes until the test lets the disk go on. Control: without `aside` the
first two tests do not come to their first answer, which a reader can see by leaving it out of `bench`; where `close` does not
join the thread, the test of the end fails.
"""

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from drivers.block.aside import Aside
from drivers.block.image import Image
from hypervisor.public.io.blkif import (
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
)
from tests.domains.dom0.xenstore.loop import SelectLoop
from tests.drivers.block.test_requests import Bench, Case

SECONDS = 20
FAR = 32
NEAR_READ = Case(BLKIF_OP_READ, 0, [(0, 0, 7)])
FAR_READ = Case(BLKIF_OP_READ, FAR, [(1, 0, 7)])
FLUSH = Case(BLKIF_OP_FLUSH_DISKCACHE, 0)


class StandingDisk:
    """The host's disk: `asked` once somebody waits for it, and `goes_on` when it is let; then it may fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.goes_on = threading.Event(), threading.Event()
        self.error: int | None = None
        self.syncs = 0
        preadv, fdatasync = os.preadv, os.fdatasync

        def read(fd: int, views: Sequence[memoryview], offset: int, flags: int = 0) -> int:
            if offset >= FAR * 512:
                if flags & os.RWF_NOWAIT:
                    raise BlockingIOError(errno.EAGAIN, "not in memory")
                self._wait()
            return preadv(fd, views, offset)

        def sync(fd: int) -> None:
            self._wait()
            fdatasync(fd)
            self.syncs += 1

        monkeypatch.setattr(os, "preadv", read)
        monkeypatch.setattr(os, "fdatasync", sync)

    def _wait(self) -> None:
        self.asked.set()
        assert self.goes_on.wait(SECONDS)
        if self.error is not None:
            raise OSError(self.error, "the disk fails")


class Back:
    """A back end with its loop, and the front's view of it."""

    def __init__(self, persistent: bool = True) -> None:
        self.loop = SelectLoop()
        self.aside = Aside(self.loop)
        self.bench = Bench(persistent, writable=True, aside=self.aside)
        self.sent = 0

    def send(self, *cases: Case) -> list[tuple[int, int]]:
        """(id, status) of what is answered at once; ids go on."""
        for case in cases:
            self.bench.ring.put(self.bench.encode(case, self.sent))
            self.sent += 1
        self.bench.ring.push()
        while self.bench.server.serve():
            pass
        return self.answers()

    def answers(self) -> list[tuple[int, int]]:
        ring = self.bench.ring
        return [
            (id, status) for id, _, status in ring.records(ring.take(), self.bench.records.response).tolist()
        ]

    def next_answers(self) -> list[tuple[int, int]]:
        """What the loop's next turns answer."""
        while not (found := self.answers()):
            self.loop.turn(SECONDS)
        return found

    def close(self) -> None:
        self.aside.close()
        assert self.loop.watched == 0
        self.bench.close()
        self.loop.close()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandingDisk]:
    disk = StandingDisk(monkeypatch)
    yield disk
    disk.goes_on.set()


@pytest.fixture
def back(disk: StandingDisk) -> Iterator[Back]:
    back = Back()
    yield back
    disk.goes_on.set()
    back.close()


def modelled(back: Back, *cases: Case) -> None:
    """Image and pages are as the model says after these requests."""
    assert all(back.bench.model(case) == BLKIF_RSP_OKAY for case in cases)
    back.bench.check()


def test_what_the_host_has_in_memory_overtakes_a_read_that_waits_for_the_disk(
    back: Back, disk: StandingDisk
) -> None:
    assert back.send(FAR_READ, NEAR_READ) == [(1, BLKIF_RSP_OKAY)]
    assert disk.asked.wait(SECONDS)
    assert back.send(NEAR_READ, Case(BLKIF_OP_WRITE, 8, [(0, 0, 7)])) == [(2, 0), (3, 0)]
    disk.goes_on.set()
    assert back.next_answers() == [(0, BLKIF_RSP_OKAY)]
    modelled(back, NEAR_READ, Case(BLKIF_OP_WRITE, 8, [(0, 0, 7)]), FAR_READ)


def test_a_flush_holds_up_nobody_and_is_answered_when_the_disk_has_it(back: Back, disk: StandingDisk) -> None:
    assert back.send(Case(BLKIF_OP_WRITE, 0, [(0, 0, 7)]), FLUSH, NEAR_READ) == [(0, 0), (2, 0)]
    assert disk.asked.wait(SECONDS)
    assert back.send(NEAR_READ) == [(3, BLKIF_RSP_OKAY)]
    assert disk.syncs == 0
    disk.goes_on.set()
    assert back.next_answers() == [(1, BLKIF_RSP_OKAY)]
    assert disk.syncs == 1
    modelled(back, Case(BLKIF_OP_WRITE, 0, [(0, 0, 7)]), NEAR_READ)


def test_a_barrier_is_performed_in_its_turn(back: Back, disk: StandingDisk) -> None:
    """What comes before it is durable when it is, and what comes after it is not begun: it is not put aside."""
    disk.goes_on.set()
    barrier, after = Case(BLKIF_OP_WRITE_BARRIER, 0, [(0, 0, 7)]), Case(BLKIF_OP_WRITE, 8, [(0, 0, 7)])
    assert back.send(barrier, after) == [(0, BLKIF_RSP_OKAY), (1, BLKIF_RSP_OKAY)]
    assert disk.syncs == 2
    modelled(back, barrier, after)


@pytest.mark.parametrize("case", [FAR_READ, FLUSH], ids=["read", "flush"])
def test_what_the_disk_refuses_is_answered_as_an_error(back: Back, disk: StandingDisk, case: Case) -> None:
    disk.error = errno.EIO
    disk.goes_on.set()
    assert back.send(case, NEAR_READ) == [(1, BLKIF_RSP_OKAY)]
    assert back.next_answers() == [(0, BLKIF_RSP_ERROR)]
    modelled(back, NEAR_READ)
    assert back.bench.server.counters.errors == 1


def test_a_page_that_is_mapped_for_one_request_is_filled_before_it_is_let_go(disk: StandingDisk) -> None:
    disk.goes_on.set()
    back = Back(persistent=False)
    assert back.send(FAR_READ) == [(0, BLKIF_RSP_OKAY)]
    modelled(back, FAR_READ)
    back.close()


def test_the_end_waits_for_what_is_under_way_and_forgets_the_rest(back: Back, disk: StandingDisk) -> None:
    """A disk's pages are let go of afterwards: nothing may write into them any more, nor be told to a front that is gone."""
    assert back.send(FAR_READ, FLUSH, FLUSH) == []
    assert disk.asked.wait(SECONDS)
    end = threading.Thread(target=back.aside.close)
    end.start()
    while not back.aside._given_up:
        os.sched_yield()
    assert end.is_alive()
    disk.goes_on.set()
    end.join(SECONDS)
    assert not end.is_alive()
    assert (back.answers(), disk.syncs, back.loop.watched) == ([], 0, 0)
    modelled(back, FAR_READ)


@pytest.mark.parametrize(
    "forget", [lambda fd: os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED), lambda fd: None]
)
def test_a_read_at_once_gives_what_the_image_holds_or_says_that_it_would_wait(
    tmp_path: Path, forget: Callable[[int], None]
) -> None:
    path, content = tmp_path / "image", os.urandom(1 << 20)
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    forget(fd)
    image, page = Image(str(path), "r"), memoryview(bytearray(4096))
    if not image.read_at_once(1024, [page], 4096):
        image.read(1024, [page], 4096)
    assert page == content[1024 * 512 : 1024 * 512 + 4096]
    assert not image.read_at_once(2047, [page], 4096)
    image.close()
    os.close(fd)
