"""A front that lies in xenstore and in the ring: its own device closes, everybody else's goes on."""

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.block.front import BlockFront
from drivers.ring import REQ_PROD
from hypervisor.public.io.blkif import BLKIF_OP_READ, blkif_request, blkif_request_segment
from hypervisor.public.io.xenbus import (
    XenbusStateClosed,
    XenbusStateClosing,
    XenbusStateInitialised,
    XenbusStateInitWait,
)
from hypervisor.public.types import DomId
from tests.drivers.block.disk import Disks
from tests.drivers.transport import Domain

PATH = "device/vbd/51712"


class Liar:
    """A guest that writes the front's nodes and its ring by hand."""

    def __init__(self, disks: Disks, image: Path) -> None:
        self.disks = disks
        self.guest: Domain = disks.guest(1)
        disks.attach(self.guest, image)
        disks.machine.settle()
        self.page = self.guest.memory.alloc_page()
        self.ring = disks.machine.frame(self.page.mfn)
        self.ref = self.guest.grants.grant_access(DomId(0), self.page.mfn)
        self.port = self.guest.events.alloc_unbound(DomId(0))

    def say(self, **nodes: object) -> None:
        """Write nodes, `_` for `-` in their names, and see what comes of it."""
        for name, value in nodes.items():
            self.guest.xenbus.write(f"{PATH}/{name.replace('_', '-')}", str(value))
        self.disks.machine.settle()

    def connect(self) -> None:
        self.say(ring_ref=self.ref, event_channel=self.port, protocol="x86_64-abi", feature_persistent=1)
        self.say(state=int(XenbusStateInitialised))

    def kick(self) -> None:
        self.guest.events.notify(self.port)
        self.disks.machine.settle()

    @property
    def state(self) -> int:
        return int(self.disks.state(self.guest))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(1 << 16))
    return path


def others_are_served(disks: Disks, image: Path) -> None:
    guest = disks.guest(2)
    front = BlockFront(guest.kernel, disks.attach(guest, image, mode="r!"))
    front.connect()
    assert front.read(0, 8) == image.read_bytes()[:4096]


@pytest.mark.parametrize("claimed", [33, 1 << 31, 0xFFFF_FFFF])
def test_an_impossible_index_closes_the_device_and_lets_go_of_everything(image: Path, claimed: int) -> None:
    disks = Disks()
    liar = Liar(disks, image)
    before = disks.machine.census()
    liar.connect()
    struct.pack_into("<I", liar.ring, 4 * REQ_PROD, claimed)
    liar.kick()
    assert liar.state == XenbusStateClosing
    assert disks.machine.census() == before
    others_are_served(disks, image)
    liar.say(state=int(XenbusStateClosed))
    liar.say(state=1)
    assert liar.state == XenbusStateInitWait, "an honest restart is welcome"


def test_a_front_that_stays_connected_after_its_ring_broke_causes_no_work(image: Path) -> None:
    disks = Disks()
    liar = Liar(disks, image)
    liar.connect()
    struct.pack_into("<I", liar.ring, 4 * REQ_PROD, 99)
    liar.kick()
    for state in (4, 3, 4):
        liar.say(state=state)
    assert liar.state == XenbusStateClosing


def test_requests_on_the_ring_before_the_back_end_connects_are_served(image: Path) -> None:
    disks = Disks()
    liar = Liar(disks, image)
    data = liar.guest.memory.alloc_page()
    ref = liar.guest.grants.grant_access(DomId(0), data.mfn)
    whole = blkif_request_segment(gref=ref, first_sect=0, last_sect=7)
    request = blkif_request(
        operation=BLKIF_OP_READ, nr_segments=1, id=9, seg=(whole, *[blkif_request_segment()] * 10)
    )
    liar.ring[64 : 64 + request.sizeof] = request.pack()
    struct.pack_into("<I", liar.ring, 4 * REQ_PROD, 1)
    liar.connect()
    assert disks.machine.frame(data.mfn) == image.read_bytes()[:4096]


text = st.one_of(
    st.sampled_from(
        ["", "0", "1", "8", "9", "4294967295", "4294967296", "-1", "9" * 30, "1e3", "०", " 1", "x"]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=0x250), max_size=30),
)
node = st.sampled_from(["ring-ref", "event-channel", "protocol", "feature-persistent", "state", "backend"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(node, text | st.sampled_from([str(state) for state in range(9)])), max_size=12))
def test_nothing_a_front_writes_into_xenstore_harms_the_back_end(steps: list[tuple[str, str]]) -> None:
    fd = os.memfd_create("image")
    os.write(fd, os.urandom(1 << 13))
    image = Path(f"/proc/self/fd/{fd}")
    disks = Disks()
    liar = Liar(disks, image)
    before = disks.machine.census()
    liar.connect()
    for name, value in steps:
        liar.say(**{name: value})
    liar.guest.die()
    disks.detach(liar.guest)
    disks.machine.settle()
    after = disks.machine.census()
    assert (after["pins"], after["mappings"], disks.back.devices) == (0, 0, {})
    assert after["watches"] == before["watches"] - 1, "the device's own"
    others_are_served(disks, image)
    os.close(fd)


Garbage = st.binary(min_size=112, max_size=112)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(Garbage, st.integers(0, 40)), min_size=1, max_size=20))
def test_garbage_in_the_ring_never_ends_the_back_end(steps: list[tuple[bytes, int]]) -> None:
    fd = os.memfd_create("image")
    contents = os.urandom(1 << 13)
    os.write(fd, contents)
    disks = Disks()
    liar = Liar(disks, Path(f"/proc/self/fd/{fd}"))
    before = disks.machine.census()
    liar.connect()
    for at, (garbage, prod) in enumerate(steps):
        liar.ring[64 + at % 32 * 112 : 64 + (at % 32 + 1) * 112] = garbage
        struct.pack_into("<I", liar.ring, 4 * REQ_PROD, prod)
        liar.kick()
    disks.detach(liar.guest)
    disks.machine.settle()
    after = disks.machine.census()
    assert (after["pins"], after["mappings"]) == (before["pins"], before["mappings"])
    assert disks.back.devices == {}
    os.close(fd)
