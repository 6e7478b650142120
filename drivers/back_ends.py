"""All devices of one kind that this domain serves, and whose turn it is.

    backend/<kind>/<front's domid>/<device>     written by the toolstack

A ring that has something to do queues behind the others, gets one bounded turn, and queues again if that was
not all. The kernel's loop runs between two turns, and turns are the shorter the more devices wait: what a front
has to wait for is bounded, whatever the others do. A kind of device may serve several in one turn, where that
costs less than one after the other. Steps between states ask xenstore: one task takes them, of one device after the
other, while turns go on. The same task releases devices, so none is taken from below a step.
"""

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task
from domains.kernel.waiting import Once
from drivers.back_device import BackDevice
from drivers.xenbus import XenbusEnd
from hypervisor.public.errno import XenError

D = TypeVar("D", bound=BackDevice)
Make = Callable[[Kernel, XenbusEnd, Callable[[], None], Callable[[], None]], D]


class BackEnds(Generic[D]):
    """The devices below backend/`kind`: `start`, then everything happens from the kernel's loop."""

    def __init__(self, kernel: Kernel, kind: str, make: Make[D]) -> None:
        self._kernel = kernel
        self._root = f"backend/{kind}"
        self._make = make
        self._devices: dict[str, D] = {}
        self._dirty: dict[str, bool] = {}
        """Paths to be looked at, in order, and whether the toolstack changed something there: a device comes to be by that
        alone."""
        self._ready: dict[str, None] = {}  # paths of devices with more to do, in order
        self._steps = kernel.loop.source(self._work)
        self._turns = kernel.loop.source(self._turn)
        self._token: str | None = None
        self._stopped: Once | None = None

    @property
    def devices(self) -> dict[str, D]:
        """The devices by path, such as `backend/vbd/1/51712`."""
        return dict(self._devices)

    def start(self) -> None:
        """Begin to watch for devices. For straight-line code."""
        self._token = self._kernel.xenbus.watch(self._root, self._changed)

    def stop(self) -> None:
        """Let go of all devices. For straight-line code."""
        if self._token is not None:
            self._kernel.xenbus.unwatch(self._token)
            self._token = None
        self._stopped = Once()
        self._steps.trigger()
        self._kernel.wait(self._stopped.is_set)

    def _changed(self, path: str) -> None:
        """Something at or below the root changed."""
        below = path[len(self._root) :].strip("/").split("/")
        self._mark("/".join([self._root, *below[:2]]) if len(below) >= 2 else self._root, anew=True)

    def _mark(self, path: str, anew: bool = False) -> None:
        self._dirty[path] = anew or self._dirty.get(path, False)
        self._steps.trigger()

    def _work(self) -> Task[None]:
        """Look at each device that may have changed; at the next one after everybody else's turn."""
        while self._dirty and self._stopped is None:
            path = next(iter(self._dirty))
            anew = self._dirty.pop(path)
            if path == self._root:
                yield from self._scan()
            else:
                yield from self._look(path, anew)
            yield NEXT_TURN
        if self._stopped is not None:
            while self._devices:
                yield from self._devices.popitem()[1].release()
            self._stopped.set()

    def _scan(self) -> Task[None]:
        """Mark all devices there are, and all there were."""
        for path in self._devices:
            self._mark(path)
        for domid in (yield from self._children(self._root)):
            for device in (yield from self._children(f"{self._root}/{domid}")):
                self._mark(f"{self._root}/{domid}/{device}", anew=True)

    def _look(self, path: str, anew: bool) -> Task[None]:
        device = self._devices.get(path)
        if device is None:
            device = (yield from self._made(path)) if anew else None
        if device is None:
            return
        try:
            there = yield from device.reconcile()
        except XenError as error:  # the store, of a domain that may not have as many nodes
            print(f"{path} is not served: {error}")
            yield from device.release()
            there = False
        if not there:
            del self._devices[path]

    def _made(self, path: str) -> Task[D | None]:
        """The device at `path`, which is new; None if it is gone again, or not complete yet: its next change is seen."""
        try:
            end = yield from XenbusEnd.back(self._kernel.xenbus.tasks, path)
            device = self._make(self._kernel, end, partial(self._queue, path), partial(self._mark, path))
            yield from device.watch()
        except (XenError, ValueError):
            return None
        self._devices[path] = device
        return device

    def _children(self, path: str) -> Task[list[str]]:
        try:
            return (yield from self._kernel.xenbus.tasks.directory(path))
        except XenError:
            return []

    def _queue(self, path: str) -> None:
        """The device at `path` has something to do: it comes after the others."""
        self._ready[path] = None
        self._turns.trigger()

    def _turn(self) -> None:
        """A turn of the devices that have waited longest."""
        self.serve(len(self._ready))
        if self._ready:
            self._turns.trigger()

    def serve(self, crowd: int) -> None:
        """One bounded turn, while `crowd` devices wait for one: of the first."""
        for device in self.take_ready(1):
            device.serve(crowd)

    def take_ready(self, most: int) -> list[D]:
        """Up to so many devices that have something to do, in the order of their waiting; they wait no longer."""
        paths = list(islice(self._ready, most))
        for path in paths:
            del self._ready[path]
        return [self._devices[path] for path in paths if path in self._devices]
