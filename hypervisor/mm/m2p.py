"""The machine-to-physical table: for each machine frame the guest's own number for it.

One u64 per frame, read-only to every guest at RO_MPT_VIRT_START, and beside it one u32 per frame with the same numbers, which
32-bit guests see; the core writes both, at a guest's request only for the guest's own frames (U5). A free frame has
INVALID_M2P_ENTRY.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from hypervisor.mm.contents import Contents
from hypervisor.mm.layout import (
    COMPAT_INVALID_M2P_ENTRY,
    COMPAT_M2P_MFN,
    EXTENT_FRAMES,
    INVALID_M2P_ENTRY,
    M2P_MFN,
)

_FIRST_WORD: Final = M2P_MFN << 9
_FIRST_COMPAT_WORD: Final = COMPAT_M2P_MFN << 10
_U32: Final = (1 << 32) - 1


class M2P:
    """Entries by MFN; the frames of the table are Xen's and mapped writable in the core."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._compat: memoryview[int] = contents.octets.cast("I")
        self._compat_array = np.frombuffer(contents.octets, np.uint32)

    def get(self, mfn: int) -> int:
        """The guest's own number for frame `mfn`."""
        return self._contents.words[_FIRST_WORD + mfn]

    def set(self, mfn: int, pfn: int) -> None:
        """Frame `mfn` is the guest's frame `pfn`."""
        self._contents.words[_FIRST_WORD + mfn] = pfn
        self._compat[_FIRST_COMPAT_WORD + mfn] = pfn & _U32

    def set_many(self, mfns: npt.NDArray[np.int64], pfns: npt.NDArray[np.uint64]) -> None:
        """`set` for distinct frames."""
        self._contents.memory.frames[M2P_MFN + (mfns >> 9), mfns & 511] = pfns
        self._compat_array[_FIRST_COMPAT_WORD + mfns] = pfns

    def invalidate(self, mfn: int) -> None:
        """Nobody has a number for the frame any more."""
        self._contents.words[_FIRST_WORD + mfn] = INVALID_M2P_ENTRY
        self._compat[_FIRST_COMPAT_WORD + mfn] = COMPAT_INVALID_M2P_ENTRY

    def invalidate_extent(self, base: int) -> None:
        """All frames of a new extent; its parts of the tables are two frames and one, aligned as the extent is."""
        first = M2P_MFN + (base >> 9)
        for frame in range(first, first + EXTENT_FRAMES // 512):
            self._contents.memory.frames[frame] = INVALID_M2P_ENTRY
        self._contents.memory.frames[COMPAT_M2P_MFN + (base >> 10)] = INVALID_M2P_ENTRY
