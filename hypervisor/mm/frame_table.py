"""The frame table: for every machine frame its owner, reference count, type, type count and flags.

Columns are parallel arrays indexed by MFN, sized for the whole machine address space, in memory that Linux fills in
on touch. Each is there twice over the same bytes: a memoryview for one frame (`refs`) and a numpy array for many
(`refs_np`). Owner, type and flags may be read by the domains' processes (machine/frame_types.py).

Only frames below `top` have ever been anybody's; every frame number from outside is compared with it first.

Invariant (F1): refs == 0 <=> no owner, type none, tcount 0, no flags.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from hypervisor.machine.frame_types import NO_OWNER, PGC, PGT, FrameTypes
from hypervisor.mm.layout import NR_FRAMES
from hypervisor.public.errno import Errno, XenError

COLUMNS: Final = (
    "owner",
    "refs",
    "type",
    "tcount",
    "flags",
    "nr_validated",
    "partial_set",
    "linear",
    "stamp",
)

Code = Literal["i", "I", "B", "H", "h"]


class FrameTable:
    """The columns, and general references.

    `release` is called with a frame whose last reference went, still with its owner; it makes the frame free.
    """

    def __init__(self, shared: FrameTypes | None = None) -> None:
        """`shared`: the columns that processes read; None: columns of this process alone."""
        self.nr_frames = nr_frames = NR_FRAMES
        self.top = 0
        self.max_refs = (1 << 32) - 2
        """Most general references; one more is kept back for the partial state (F7)."""
        self.max_tcount = (1 << 32) - 1
        self.release: Callable[[int], None] = _nobody_releases
        self.shared = shared = shared or FrameTypes()
        self.owner, self.owner_np = shared.owner, np.frombuffer(shared.owner, "<i4")
        self.refs, self.refs_np = column(nr_frames, "I", "<u4")
        self.type, self.type_np = shared.type, np.frombuffer(shared.type, "u1")
        self.tcount, self.tcount_np = column(nr_frames, "I", "<u4")
        self.flags, self.flags_np = shared.flags, np.frombuffer(shared.flags, "u1")
        self.nr_validated, self.nr_validated_np = column(nr_frames, "H", "<u2")
        """PARTIAL only: entries [0, n) hold references (Q1)."""
        self.partial_set, self.partial_set_np = column(nr_frames, "B", "u1")
        """PARTIAL only: entry n holds a general reference on a table that was parked too (Q1)."""
        self.linear, self.linear_np = column(nr_frames, "h", "<i2")
        """Tables only: > 0 same-level entries in it, < 0 same-level tables it is used in (P11)."""
        self.stamp, self.stamp_np = column(nr_frames, "I", "<u4")
        """tcount 0 only: its owner's flush clock when the last type reference went (T1)."""

    def extend(self, top: int) -> None:
        """Frames below `top` exist from now on; the new ones are free."""
        if top > self.top:
            self.owner_np[self.top : top] = NO_OWNER
            self.top = top

    def get_page(self, mfn: int, domid: int) -> None:
        """A general reference on a frame of `domid` (F11). XenError(EINVAL): not its frame, or too many (F7)."""
        if not 0 <= mfn < self.top or self.owner[mfn] != domid:
            raise XenError(Errno.EINVAL, f"F11: frame {mfn:#x} is not d{domid}'s")
        if self.refs[mfn] >= self.max_refs:
            raise XenError(Errno.EINVAL, f"F7: frame {mfn:#x} has {self.refs[mfn]} references")
        self.refs[mfn] += 1

    def get_page_light(self, mfn: int) -> None:
        """The reference that get_page keeps back, for the partial state (F7, Q1): cannot fail."""
        self.refs[mfn] += 1

    def put_page(self, mfn: int) -> None:
        """Drop a general reference; the last one frees the frame."""
        left = self.refs[mfn] - 1
        self.refs[mfn] = left
        if not left:
            self.release(mfn)

    def snapshot(self) -> dict[str, Any]:
        """Every column below `top`, as bytes, and `top` itself."""
        columns = {name: getattr(self, f"{name}_np")[: self.top].tobytes() for name in COLUMNS}
        return {"top": self.top, "columns": columns}

    def restore(self, record: dict[str, Any]) -> None:
        """Have exactly the frames of a snapshot. ValueError: a column of another length."""
        self.top = record["top"]
        for name in COLUMNS:
            whole = getattr(self, f"{name}_np")
            whole[: self.top] = np.frombuffer(record["columns"][name], whole.dtype)

    def describe(self, mfn: int) -> str:
        """For the log: which frame, whose, with which counts."""
        if not 0 <= mfn < self.top:
            return f"frame {mfn:#x} (no such frame)"
        return (
            f"frame {mfn:#x} (owner {self.owner[mfn]}, refs {self.refs[mfn]}, type {PGT(self.type[mfn]).name}"
            f" x{self.tcount[mfn]}, {PGC(self.flags[mfn])!r})"
        )


def column(nr: int, code: Code, dtype: str) -> tuple[memoryview[int], npt.NDArray[Any]]:
    """One value per frame, zero at first: a memoryview for scalars and a numpy array over the same bytes."""
    memory = mmap.mmap(-1, nr * np.dtype(dtype).itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return memoryview(memory).cast(code), np.frombuffer(memory, dtype)


def _nobody_releases(mfn: int) -> None:
    raise RuntimeError(f"frame {mfn:#x} freed before the allocator exists")
