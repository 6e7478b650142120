"""PAGE_DATA: some pages of the domain's memory, each with what it is used as.

    count u32 | 0 | pfn[count] u64 | the contents of those that have any, in the same order

    pfn   63 type 60 │ 59 reserved 52 │ 51 … 0 the page's number in the domain

Types are XEN_DOMCTL_PFINFO_…, shifted: 0 a page, 1 to 4 a page table of that level, plus 8 if it is pinned; 0xD, 0xE and 0xF have
no content: broken, only allocated, and not there.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from domains.dom0.toolstack.stream.framing import Record
from hypervisor.public.types import PAGE_SIZE

Words = npt.NDArray[np.uint64]
HEAD: Final = struct.Struct("<II")
TYPE_SHIFT: Final = np.uint64(60)
PFN_MASK: Final = np.uint64((1 << 52) - 1)
PINNED: Final = 8
LEVEL: Final = 7
"""Of the type of a page table: its level."""
FIRST_WITHOUT_CONTENT: Final = 0xD
XALLOC: Final = 0xE
XTAB: Final = 0xF
VALID: Final = np.array([kind <= 4 or kind >= 9 for kind in range(16)])


class PageData(NamedTuple):
    """`pfns` and `types` (0 to 15) of the same length; `pages`, uint64[n, 512], are those that have content, in order."""

    pfns: Words
    types: Words
    pages: Words

    @property
    def sparse(self) -> PageData:
        """The same with every ordinary page that is zero said to be allocated alone: a new page is zero."""
        empty = (self.types == 0) & ~self.pages.any(axis=1)
        return PageData(self.pfns, np.where(empty, np.uint64(XALLOC), self.types), self.pages[~empty])

    @property
    def with_content(self) -> npt.NDArray[np.bool_]:
        """Which of them have content."""
        return has_content(self.types)


def has_content(types: Words) -> npt.NDArray[np.bool_]:
    """Which pages of these types have content."""
    return types < FIRST_WITHOUT_CONTENT


def pack(data: PageData) -> list[memoryview | bytes]:
    """The body, in pieces."""
    heads = data.types << TYPE_SHIFT | data.pfns
    pages = np.ascontiguousarray(data.pages)
    contents = [memoryview(pages.data).cast("B")] if pages.size else []
    return [HEAD.pack(len(heads), 0), heads.tobytes(), *contents]


def unpack(record: Record) -> PageData:
    """What a record says; `pages` is as long good as its body. Raises StreamError."""
    count, _ = record.unpack(HEAD)
    body = memoryview(record.body)[HEAD.size :]
    record.need(count > 0, "it has no pages")
    record.need(len(body) >= 8 * count, f"{count} pages do not fit into its {len(record.body)} bytes")
    heads = np.frombuffer(body[: 8 * count], "<u8")
    pfns, types = heads & PFN_MASK, heads >> TYPE_SHIFT
    wrong = ~VALID[types.astype(np.intp)]
    if wrong.any():
        at = int(np.argmax(wrong))
        raise record.wrong(f"page {pfns[at]:#x} is of type {types[at]:#x}, which there is not")
    contents = int(np.count_nonzero(has_content(types)))
    rest = body[8 * count :]
    record.need(
        len(rest) == contents * PAGE_SIZE,
        f"{contents} of its {count} pages have content, and it has {len(rest)} bytes for them",
    )
    record.need(len(np.unique(pfns)) == count, "it has a page twice")
    return PageData(pfns, types, np.frombuffer(rest, "<u8").reshape(contents, 512))
