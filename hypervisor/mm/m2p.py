"""The machine-to-physical table: for each machine frame the guest's own number for it.

One u64 per frame, read-only to every guest at RO_MPT_VIRT_START; the core writes it, at a guest's request only for
the guest's own frames (U5). A free frame has INVALID_M2P_ENTRY.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from hypervisor.mm.contents import Contents
from hypervisor.mm.layout import EXTENT_FRAMES, INVALID_M2P_ENTRY, M2P_MFN

_FIRST_WORD: Final = M2P_MFN << 9


class M2P:
    """Entries by MFN; the frames of the table are Xen's and mapped writable in the core."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents

    def get(self, mfn: int) -> int:
        """The guest's own number for frame `mfn`."""
        return self._contents.words[_FIRST_WORD + mfn]

    def set(self, mfn: int, pfn: int) -> None:
        """Frame `mfn` is the guest's frame `pfn`."""
        self._contents.words[_FIRST_WORD + mfn] = pfn

    def set_many(self, mfns: npt.NDArray[np.int64], pfns: npt.NDArray[np.uint64]) -> None:
        """`set` for distinct frames."""
        self._contents.memory.frames[M2P_MFN + (mfns >> 9), mfns & 511] = pfns

    def invalidate(self, mfn: int) -> None:
        """Nobody has a number for the frame any more."""
        self._contents.words[_FIRST_WORD + mfn] = INVALID_M2P_ENTRY

    def invalidate_extent(self, base: int) -> None:
        """All frames of a new extent; its part of the table is two frames, aligned as the extent is."""
        first = M2P_MFN + (base >> 9)
        for frame in range(first, first + EXTENT_FRAMES // 512):
            self._contents.memory.frames[frame] = INVALID_M2P_ENTRY
