"""Functions of the Unicorn library replaced by others, without touching its code: each place with their address gets another.

The library is built so that its parts call each other through tables of addresses which the dynamic linker fills (ELF relocations
R_X86_64_64, GLOB_DAT and JUMP_SLOT). Each names its symbol, so the places are found by name, not by pattern.

    section headers       type u32 @4, offset u64 @24, size u64 @32, link u32 @40, 64 bytes each
    .rela.dyn, .rela.plt   offset u64 | type u32, symbol u32 | addend i64
    .dynsym                name u32, info, other, section u16 | value u64 | size u64

Source: System V ABI, AMD64 Architecture Processor Supplement, §4.4.
"""

import ctypes
import mmap
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from domains.cpu.x86.emulator.unicorn_library import INSTALLED, UnsupportedLibrary, exported, library_path

ADDRESS_TYPES: Final = (1, 6, 7)
"""R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT."""
ANY_FUNCTION: Final = "uc_emu_start"
"""By which it is found where the library lies."""
SHT_RELA, SHT_DYNSYM = 4, 11
SHN_UNDEF: Final = 0
_SECTION: Final = np.dtype(
    {
        "names": ["type", "offset", "size", "link"],
        "formats": ["<u4", "<u8", "<u8", "<u4"],
        "offsets": [4, 24, 32, 40],
        "itemsize": 64,
    }
)
_RELOCATION: Final = np.dtype([("offset", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
_SYMBOL: Final = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)


class Interposer:
    """Finds where the library keeps the addresses of its functions, and changes them, for this whole process."""

    def __init__(self) -> None:
        with Path(library_path()).open("rb") as file:
            image = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        (at,), (count,) = struct.unpack_from("<Q", image, 40), struct.unpack_from("<H", image, 60)
        sections = np.frombuffer(image, _SECTION, count, at)
        dynamic = sections[sections["type"] == SHT_DYNSYM][0]
        names = sections[dynamic["link"]]
        self._names = image[int(names["offset"]) : int(names["offset"] + names["size"])]
        symbols = _rows(image, _SYMBOL, dynamic)
        self._values = symbols["value"]
        self._name_at = symbols["name"].copy()
        self._imported = np.flatnonzero(symbols["section"] == SHN_UNDEF)
        parts = [_rows(image, _RELOCATION, section) for section in sections[sections["type"] == SHT_RELA]]
        found = np.concatenate(parts)
        found = found[np.isin(found["type"], ADDRESS_TYPES) & (found["addend"] == 0)]
        self._places, self._named = found["offset"].copy(), found["symbol"].copy()
        self._base = exported(ANY_FUNCTION) - int(self._values[self._searched(ANY_FUNCTION)])

    def replace(self, name: str, address: int) -> None:
        """From now on the library calls `address` where it would have called its function `name`, or libc's. Raises
        UnsupportedLibrary.
        """
        symbol, base = self._symbol(name), self._base
        places = self._places[self._named == symbol]
        if not len(places):
            raise UnsupportedLibrary(f"unicorn {INSTALLED} calls {name} where it cannot be replaced")
        _make_writable(base + int(place) for place in places)
        for place in places:
            ctypes.c_uint64.from_address(base + int(place)).value = address

    def _symbol(self, name: str) -> int:
        """The index of a symbol: the dynamic linker knows where its function is, so that few need a look."""
        ends = name.encode() + b"\0"
        try:
            value = exported(name) - self._base
        except AttributeError:  # the linker has none of that name
            raise _unknown(name) from None
        here = np.flatnonzero(self._values == np.uint64(value)) if value > 0 else ()
        found = [at for at in (*here, *self._imported) if self._names.startswith(ends, self._name_at[at])]
        if len(found) != 1:
            raise _unknown(name)
        return int(found[0])

    def _searched(self, name: str) -> int:
        """The same by a search for the name, which may be the end of a longer one: the linker keeps such a pair once."""
        ends = name.encode() + b"\0"
        at, found = self._names.find(ends), np.zeros(0, np.intp)
        while at > 0 and not len(found):
            found = np.flatnonzero(self._name_at == at)
            at = self._names.find(ends, at + 1)
        if len(found) != 1:
            raise _unknown(name)
        return int(found[0])


def _unknown(name: str) -> UnsupportedLibrary:
    return UnsupportedLibrary(f"unicorn {INSTALLED} has no function {name}")


def _rows(image: mmap.mmap, row: np.dtype[Any], section: Any) -> NDArray[Any]:
    return np.frombuffer(image, row, int(section["size"]) // row.itemsize, int(section["offset"]))


def _make_writable(addresses: Iterable[int]) -> None:
    """The linker made most of these tables read-only once they were filled."""
    libc = ctypes.CDLL(None, use_errno=True)
    for page in {address & -mmap.PAGESIZE for address in addresses}:
        rights = ctypes.c_int(mmap.PROT_READ | mmap.PROT_WRITE)
        if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), rights):
            raise OSError(ctypes.get_errno(), "the Unicorn library's tables cannot be made writable")
