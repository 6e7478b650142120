"""The back end's side of a PV console's page: takes what the guest said, puts in what is typed (byte_ring.py).

Source: Xen public/io/console.h. The page as both sides see it:

       0  in[1024]       written by this side
    1024  out[2048]      written by the guest
    3072  in_cons        by the guest       3080  out_cons   by this side
    3076  in_prod        by this side       3084  out_prod   by the guest
"""

from domains.kernel.byte_ring import ByteRingReader, ByteRingWriter
from domains.kernel.console import CONSOLE_IN, CONSOLE_OUT


class ConsoleRing:
    """`page` is a writable view of the guest's console page, whose indices are taken over as they stand."""

    def __init__(self, page: memoryview) -> None:
        self._page = page
        self._output = ByteRingReader(page, CONSOLE_OUT)
        self._input = ByteRingWriter(page, CONSOLE_IN)

    def take(self) -> bytes:
        """What the guest has written since; RingBroken. The guest has room again: notify it if not empty."""
        return self._output.take()

    def put(self, data: bytes) -> int:
        """Write as much of `data` as fits; how much that was; RingBroken."""
        return self._input.put(data)

    def release(self) -> None:
        """Let go of the page, so that it can be unmapped."""
        self._output.release()
        self._input.release()
        self._page.release()
