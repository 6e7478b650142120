"""The smallest loop that the socket server can live in, and a process that is nothing but a xenstored."""

import contextlib
import selectors
import sys
from collections.abc import Callable, Iterator

from domains.dom0.xenstore.server import Xenstored
from domains.dom0.xenstore.socket import SocketServer
from tests.domains.dom0.xenstore.client import Rings

Callback = Callable[[], None]


class SelectLoop:
    """Reader and writer callbacks per descriptor."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._callbacks: dict[int, dict[int, Callback]] = {}

    def add_reader(self, fd: int, callback: Callback) -> None:
        self._set(fd, selectors.EVENT_READ, callback)

    def remove_reader(self, fd: int) -> None:
        self._set(fd, selectors.EVENT_READ, None)

    def add_writer(self, fd: int, callback: Callback) -> None:
        self._set(fd, selectors.EVENT_WRITE, callback)

    def remove_writer(self, fd: int) -> None:
        self._set(fd, selectors.EVENT_WRITE, None)

    def _set(self, fd: int, event: int, callback: Callback | None) -> None:
        callbacks = self._callbacks.setdefault(fd, {})
        known = bool(callbacks)
        callbacks.pop(event, None)
        if callback:
            callbacks[event] = callback
        if callbacks:
            (self._selector.modify if known else self._selector.register)(fd, sum(callbacks))
        elif known:
            self._selector.unregister(fd)

    def turn(self, timeout: float | None) -> None:
        for key, ready in self._selector.select(timeout):
            for event in (selectors.EVENT_READ, selectors.EVENT_WRITE):
                if ready & event and (callback := self._callbacks[key.fd].get(event)):
                    callback()

    @property
    def watched(self) -> int:
        return len(self._selector.get_map())

    def close(self) -> None:
        self._selector.close()


@contextlib.contextmanager
def serving(path: str) -> Iterator[tuple[Xenstored, SelectLoop, SocketServer]]:
    """A store at `path`, in a loop that the test turns."""
    loop = SelectLoop()
    xenstored = Xenstored(Rings(1, 2))
    server = SocketServer(xenstored, loop, path, clients_max=8)
    try:
        yield xenstored, loop, server
    finally:
        server.close()
        assert loop.watched == 0
        loop.close()


def main() -> None:
    """Serve at the path given until standard input ends. Says so when it is ready."""
    loop = SelectLoop()
    xenstored = Xenstored(Rings(1, 2))
    server = SocketServer(xenstored, loop, sys.argv[1])
    running = [True]

    def stop() -> None:
        running.clear()

    loop.add_reader(sys.stdin.fileno(), stop)
    print("ready", flush=True)
    while running:
        loop.turn(xenstored.run())
    server.close()


if __name__ == "__main__":
    main()
