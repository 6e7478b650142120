"""One domain's console: its ring, its history, and the viewers that follow it.

Every viewer begins with the whole history and gets each byte once, in order, unless it is slower than the
history is long: then it misses the oldest. A viewer that cannot take data now is asked again; nobody else
waits for it.
"""

from collections.abc import Callable
from typing import Final

from domains.dom0.console.history import HISTORY_SIZE, History
from domains.dom0.console.ring import ConsoleRing
from domains.kernel.byte_ring import RingBroken

CHUNK: Final = 64 * 1024
"""Bytes given to a viewer at once."""

PENDING_INPUT: Final = 64 * 1024
"""Bytes of input kept for a guest that does not read; more is dropped."""


class Viewer:
    """Somebody who follows a console. `sink` takes bytes, or returns False to be asked again later."""

    def __init__(self, sink: Callable[[bytes], bool], ended: Callable[[str], None]) -> None:
        self.sink = sink
        self.ended = ended
        self.position = 0


class Terminal:
    """`notify` sends the guest an event. Bytes in, bytes out: it knows neither events nor mappings."""

    def __init__(
        self, ring: ConsoleRing, notify: Callable[[], None], history_size: int = HISTORY_SIZE
    ) -> None:
        self.history = History(history_size)
        self.broken: str | None = None
        self._ring: ConsoleRing | None = ring
        self._notify = notify
        self._viewers: list[Viewer] = []
        self._input = bytearray()
        self._end: str | None = None

    def service(self) -> None:
        """Move bytes both ways; to be called for every event from the guest."""
        if self._ring is None:
            return
        try:
            output = self._ring.take()
            given = self._ring.put(bytes(self._input)) if self._input else 0
        except RingBroken as error:
            self.broken = str(error)
            self._ring.release()
            self._ring = None
            return
        del self._input[:given]
        if output:
            self.history.append(output)
        if output or given:
            self._notify()
        self.pump()

    def type(self, data: bytes) -> None:
        """Input for the guest, in order; what does not fit into its ring waits for it."""
        self._input += data[: PENDING_INPUT - len(self._input)]
        self.service()

    def attach(self, viewer: Viewer) -> bool:
        """From the oldest byte kept; False as `pump`."""
        viewer.position = self.history.start
        self._viewers.append(viewer)
        return self.pump()

    def detach(self, viewer: Viewer) -> None:
        """Harmless if it is not attached."""
        if viewer in self._viewers:
            self._viewers.remove(viewer)

    def pump(self) -> bool:
        """Give the viewers what is new; False if one of them is to be asked again."""
        done = [viewer for viewer in list(self._viewers) if self._give(viewer)]
        behind = len(self._viewers) > len(done)
        if self._end is not None:
            for viewer in done:
                self.detach(viewer)
                viewer.ended(self._end)
        return not behind

    def finish(self, reason: str) -> bool:
        """The domain says no more: the last bytes, then the end, also for those who come later.

        False if a viewer still has to be given something by `pump`.
        """
        self.service()
        self._end = reason
        return self.pump()

    def close(self, reason: str) -> bool:
        """The domain is gone, as `finish`. The page may be unmapped afterwards."""
        done = self.finish(reason)
        if self._ring is not None:
            self._ring.release()
            self._ring = None
        return done

    def _give(self, viewer: Viewer) -> bool:
        """Everything up to the history's end; False if the viewer did not take it all."""
        while viewer.position < self.history.end:
            data, position = self.history.read(viewer.position, CHUNK)
            if not viewer.sink(data):
                return False
            viewer.position = position
        return True
