"""A device whose end comes while its steps are under way: wherever a task pauses, nothing stays held.

Between two handlers anything may happen to a device: its nodes go, its guest dies, its back end is told to stop, its ring
breaks. Each test does one of these after more and more handlers of a connection that is being made, in a driver domain, where
every request to the store is a pause. Controls, each seen to fail: a `release` that does not close what `open` opened, a
`_detach` that leaves `detach` out, a front end's step that does not look after `prepare` whether it is still wanted.
"""

import contextlib
import os
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from domains.kernel.kernel import GuestEnded
from drivers.block.front import BlockFront
from drivers.net.front import NetFront
from drivers.ring import REQ_PROD
from drivers.xenbus import DeviceError
from hypervisor.public.errno import XenError
from tests.drivers.block.disk import Disks
from tests.drivers.net.network import Network
from tests.drivers.transport import Domain

pytestmark = pytest.mark.slow

DRIVER = 9
EVERY = 5
"""Of the handlers after which an end may come, every fifth is tried: a step between states takes more than that."""


class Case:
    """A guest that connects a device whose back end is in a driver domain. `image`: what only that may have open."""

    def __init__(
        self, house: Disks | Network, image: Path, connect: Callable[[Domain], BlockFront | NetFront]
    ) -> None:
        self.house = house
        self.machine = house.machine
        self.image = image
        self.guest = house.guest(1)
        self._connect = connect
        self.front: BlockFront | NetFront | None = None
        self.came_up = False

    def run(self) -> int:
        """Connect, and run until nobody has anything to do; after how many handlers it was connected."""
        before = self.machine.handled
        with contextlib.suppress(DeviceError, OSError, XenError, GuestEnded):
            self.front = self._connect(self.guest)
            self.front.connect()
            self.came_up = True
        handled = self.machine.handled - before
        self.machine.settle()
        return handled

    def back_end_holds_nothing(self) -> bool:
        driver = self.house.driver
        return (
            self.machine.census()["pins"] == 0
            and not driver.cpu.mapped
            and not driver.events.channels
            and not is_open(self.image)
        )

    def front_end_holds_nothing(self) -> bool:
        return not self.guest.grants.table and not self.guest.events.channels


def is_open(image: Path) -> bool:
    """Whether this process has a descriptor of the file."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # of the listing itself
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return str(image) in links


def block(folder: Path) -> Case:
    image = folder / f"disk{len(os.listdir(folder))}.img"
    image.write_bytes(bytes(1 << 16))
    disks = Disks(DRIVER)
    return Case(
        disks, image, lambda guest: BlockFront(guest.kernel, disks.attach(guest, image), max_pages=16)
    )


def net(folder: Path) -> Case:
    network = Network(DRIVER)
    return Case(network, folder, lambda guest: NetFront(guest.kernel, network.attach(guest), lambda _: None))


KINDS = pytest.mark.parametrize("make", [block, net])


def interrupted(
    make: Callable[[Path], Case], folder: Path, end: Callable[[Case], None]
) -> Iterator[tuple[int, Case]]:
    """Cases in which `end` comes after a number of handlers, and that number."""
    handlers = make(folder).run()
    assert handlers > 20, "a connection takes many a pause"
    for number in range(1, handlers + 1, EVERY):
        case = make(folder)
        case.machine.interruptions[case.machine.handled + number] = partial(end, case)
        case.run()
        yield number, case


@KINDS
def test_nodes_that_go_leave_nothing_held(make: Callable[[Path], Case], tmp_path: Path) -> None:
    for number, case in interrupted(make, tmp_path, lambda case: case.house.detach(case.guest)):
        assert case.back_end_holds_nothing(), number
        assert case.front_end_holds_nothing(), number
        assert case.house.back.devices == {}, number


@KINDS
def test_a_guest_that_dies_leaves_nothing_held(make: Callable[[Path], Case], tmp_path: Path) -> None:
    def die(case: Case) -> None:
        case.guest.die()
        case.house.detach(case.guest)

    for number, case in interrupted(make, tmp_path, die):
        assert case.back_end_holds_nothing(), number
        assert case.house.back.devices == {}, number


@KINDS
def test_a_back_end_that_is_told_to_stop_lets_go_of_everything(
    make: Callable[[Path], Case], tmp_path: Path
) -> None:
    for number, case in interrupted(make, tmp_path, lambda case: case.house.back.stop()):
        assert case.back_end_holds_nothing(), number
        assert case.house.driver.xenbus.tasks._watches == {}, number


@KINDS
def test_a_ring_that_breaks_while_it_is_being_connected_is_given_up(
    make: Callable[[Path], Case], tmp_path: Path
) -> None:
    """The claim of too many requests comes as soon as there is a ring, and an event with it."""

    def spoil(case: Case) -> None:
        connection = case.front._connection if case.front is not None else None
        if connection is None:
            return
        for grant in list(case.guest.grants.table.values())[:1]:
            struct.pack_into("<I", case.machine.frame(grant.mfn), 4 * REQ_PROD, 1 << 20)
        case.guest.events.notify(connection.port)

    for number, case in interrupted(make, tmp_path, spoil):
        case.house.detach(case.guest)
        case.machine.settle()
        assert case.back_end_holds_nothing(), number
        assert case.front_end_holds_nothing(), number


@KINDS
def test_a_front_end_that_gives_up_waiting_holds_nothing(
    make: Callable[[Path], Case], tmp_path: Path
) -> None:
    def time_is_over(case: Case) -> None:
        case.machine.time += 20 * 10**9

    given_up = 0
    for number, case in interrupted(make, tmp_path, time_is_over):
        if not case.came_up:
            given_up += 1
            assert case.front_end_holds_nothing(), number
    assert given_up


@KINDS
def test_a_device_can_be_connected_after_any_interruption(
    make: Callable[[Path], Case], tmp_path: Path
) -> None:
    for number, case in interrupted(make, tmp_path, lambda case: case.house.detach(case.guest)):
        case.run()
        assert case.front is not None, number
        assert case.front.connected, number
