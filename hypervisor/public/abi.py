"""How a guest lays its arguments out in memory: one table per width of guest.

A hypercall handler names the structure that it wants by Xen's name, `call.read(va, sched_poll)`, and gets that record whatever
the guest's width; only this table knows where the fields lie. A 64-bit guest's layouts are the declared structures
themselves. A 32-bit guest's (`COMPAT`, made in compat.py) are other objects in the place of those that differ; a structure
that is the same in both widths needs no entry.

    Abi.layouts:  sched_poll ──► an object that unpacks and packs a sched_poll
                  mmu_update ──► (no entry) mmu_update itself

Source: Xen public/xen-compat.h, xen/include/xlat.lst.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from hypervisor.public.compat import HEADERS, compat_layouts, declared_in
from hypervisor.public.layout import Buffer, Struct


class Layout(Protocol):
    """Where the fields of one structure lie; every `Struct` class is the layout of itself."""

    @property
    def sizeof(self) -> int:
        """Bytes of one structure."""

    def unpack(self, buffer: Buffer, offset: int = 0) -> Any:
        """The record at `offset` in `buffer`; struct.error if the buffer ends before it."""

    def pack(self, record: Any) -> bytes:
        """The bytes of a record; struct.error if a number does not fit its field."""

    def pack_field(self, record: Any, name: str) -> bytes:
        """The bytes of one field of a record; struct.error if the number does not fit."""

    def offsetof(self, path: str) -> int:
        """Offset in bytes of a field."""


@dataclass(frozen=True)
class Abi:
    """The layouts of one width. `address_size`: bits of the guest's addresses and of C's unsigned long (64 or 32)."""

    address_size: int
    layouts: Mapping[type[Struct], Layout] = field(default_factory=dict)

    @property
    def word(self) -> int:
        """Bytes of an unsigned long, a pointer or a frame number."""
        return self.address_size // 8

    @property
    def nr_event_channels(self) -> int:
        """Ports for which shared_info has bits: a word of selectors, each for a word of ports."""
        return self.address_size * self.address_size

    def layout(self, struct: type[Struct]) -> Layout:
        """Where the fields of `struct` lie for this guest."""
        return self.layouts.get(struct, struct)

    def sizeof(self, struct: type[Struct]) -> int:
        """Bytes of one `struct` in this guest's memory."""
        return self.layout(struct).sizeof

    def words(self, raw: bytes) -> npt.NDArray[np.uint64]:
        """The unsigned longs that `raw`, a multiple of `word` bytes, holds: uint64[n], a copy."""
        return np.frombuffer(raw, f"<u{self.word}").astype(np.uint64)

    def pack_words(self, numbers: Iterable[int] | npt.NDArray[np.uint64]) -> bytes:
        """`numbers`, which must fit, as unsigned longs in a row."""
        words = numbers if isinstance(numbers, np.ndarray) else np.array(list(numbers), np.uint64)
        return words.astype(f"<u{self.word}").tobytes()


NATIVE: Final = Abi(64)
"""A 64-bit guest: the declared structures are the layouts."""
COMPAT: Final = Abi(32, compat_layouts(declared_in(HEADERS)))
"""A 32-bit guest."""
