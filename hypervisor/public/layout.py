"""How an ABI structure is declared: field names and C types in, a numpy dtype and a `struct.Struct` out.

Owns the layout rule, which is C's on x86-64 (System V ABI, AMD64 supplement, §3.1.2): a field lies at the
next multiple of its alignment, a structure's alignment is its widest member's, its size is rounded up to
that. Everything is little-endian. The size given with a declaration is checked at import: a wrong one cannot
be used.

A record is decoded by one `struct` call with one item per field; a member that is not a number comes out of
it as bytes, which are then decoded. How structures are written and used is told in `hypervisor.public`.
"""

import inspect
import struct
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple, Self, get_args, get_origin

import numpy as np
import numpy.typing as npt

from hypervisor.public.types import i8 as i8
from hypervisor.public.types import i16 as i16
from hypervisor.public.types import i32 as i32
from hypervisor.public.types import i64 as i64
from hypervisor.public.types import u8 as u8
from hypervisor.public.types import u16 as u16
from hypervisor.public.types import u32 as u32
from hypervisor.public.types import u64 as u64

STRUCT_CODE = {"<u1": "B", "<u2": "H", "<u4": "I", "<u8": "Q", "<i1": "b", "<i2": "h", "<i4": "i", "<i8": "q"}

Buffer = bytes | bytearray | memoryview


class CType(NamedTuple):
    """One C type; where `code`, which is struct's, gives bytes, `decode` and `encode` do the rest."""

    size: int
    align: int
    dtype: npt.DTypeLike
    code: str
    decode: Callable[[bytes], Any] | None = None
    encode: Callable[[Any], bytes] | None = None


def c_type(hint: Any) -> CType:
    """The C type of u8 … i64, of a Struct, of `Annotated[bytes, n]` or of `Annotated[tuple[T, ...], n]`."""
    if get_origin(hint) is not Annotated:
        code = f"{hint.sizeof}s"
        return CType(hint.sizeof, hint.alignof, hint.dtype, code, hint.unpack, lambda record: record.pack())
    kind, detail = get_args(hint)[:2]
    if isinstance(detail, str):
        size = int(detail[2:])
        return CType(size, size, detail, STRUCT_CODE[detail])
    if kind is bytes:
        return CType(detail, 1, f"V{detail}", f"{detail}s", None, lambda raw: fitted(raw, detail))
    return c_array(c_type(get_args(kind)[0]), detail)


def c_array(item: CType, count: int) -> CType:
    """The C type of `count` items in a row; its value is a tuple."""
    codec = struct.Struct("<" + item.code * count)
    item_decode, item_encode = item.decode, item.encode

    def decode(raw: bytes) -> tuple[Any, ...]:
        return tuple(map(item_decode, codec.unpack(raw))) if item_decode else codec.unpack(raw)

    def encode(items: tuple[Any, ...]) -> bytes:
        return codec.pack(*(map(item_encode, items) if item_encode else items))

    return CType(codec.size, item.align, (item.dtype, (count,)), f"{codec.size}s", decode, encode)


def encoded(field: CType, value: Any) -> bytes:
    """The bytes of one value of a C type."""
    return field.encode(value) if field.encode else struct.pack("<" + field.code, value)


def fitted(raw: bytes, size: int) -> bytes:
    """`raw` filled up with zeros to `size` bytes; struct alone would cut off what is too long."""
    if len(raw) > size:
        raise ValueError(f"{len(raw)} bytes do not fit into {size}")
    return raw.ljust(size, b"\0")


class Struct:
    """Base of every ABI structure; a subclass names its fields in order and its size in bytes.

    `pack` limits the alignment, as C's `#pragma pack` does. Only a structure that is derived from another has no size declared.
    """

    sizeof: ClassVar[int]
    alignof: ClassVar[int]
    pack_limit: ClassVar[int]
    dtype: ClassVar[np.dtype[np.void]]
    _types: ClassVar[dict[str, CType]]
    _codec: ClassVar[struct.Struct]
    _decoders: ClassVar[list[tuple[str, Callable[[bytes], Any]]]]
    _encoders: ClassVar[list[tuple[str, Callable[[Any], bytes]]]]
    _offsets: ClassVar[dict[str, int]]
    _zero: ClassVar[dict[str, Any]]
    """The undecoded items of a record of zeros."""
    _overlaid: ClassVar[bool] = False

    def __init_subclass__(cls, size: int | None, pack: int = 8) -> None:
        hints = inspect.get_annotations(cls, eval_str=True)
        cls._types = {name: c_type(hint) for name, hint in hints.items()}
        cls._offsets = {}
        offsets, code, end = [], "<", 0
        for field in cls._types.values():
            align = min(field.align, pack)
            at = 0 if cls._overlaid else -(-end // align) * align
            code += f"{max(at - end, 0)}x{field.code}"
            offsets.append(at)
            end = max(end, at + field.size)
        cls.alignof = min(max((field.align for field in cls._types.values()), default=1), pack)
        cls.sizeof = -(-end // cls.alignof) * cls.alignof
        cls.pack_limit = pack
        if size not in (None, cls.sizeof):
            raise TypeError(f"{cls.__name__} takes {cls.sizeof} bytes, declared are {size}")
        cls._codec = struct.Struct(f"<{cls.sizeof}s" if cls._overlaid else f"{code}{cls.sizeof - end}x")
        cls._decoders = [(name, field.decode) for name, field in cls._types.items() if field.decode]
        cls._encoders = [(name, field.encode) for name, field in cls._types.items() if field.encode]
        cls._zero = dict(zip(cls._types, cls._codec.unpack(bytes(cls.sizeof)), strict=False))
        cls.dtype = np.dtype(
            {
                "names": list(cls._types),
                "formats": [field.dtype for field in cls._types.values()],
                "offsets": offsets,
                "itemsize": cls.sizeof,
            }
        )

    def __init__(self, **fields: Any) -> None:
        if unknown := fields.keys() - self._types.keys():
            raise TypeError(f"{type(self).__name__} has no field {', '.join(sorted(unknown))}")
        values = self.__dict__
        values.update(self._zero)
        for name, decode in self._decoders:
            values[name] = decode(values[name])
        for name, value in fields.items():
            setattr(self, name, value)

    @classmethod
    def unpack(cls, buffer: Buffer, offset: int = 0) -> Self:
        """The record at `offset` bytes into `buffer`; struct.error if the buffer ends before the record."""
        record = cls.__new__(cls)
        fields = record.__dict__
        fields.update(zip(cls._types, cls._codec.unpack_from(buffer, offset), strict=True))
        for name, decode in cls._decoders:
            fields[name] = decode(fields[name])
        return record

    def pack(self) -> bytes:
        """The record as `sizeof` bytes, padding zero; struct.error if a number does not fit its field."""
        values = self.__dict__
        if self._encoders:
            values = values | {name: encode(values[name]) for name, encode in self._encoders}
        return self._codec.pack(*map(values.__getitem__, self._types))

    def pack_field(self, name: str) -> bytes:
        """The bytes of one field alone, to be written at `offsetof(name)`."""
        return encoded(self._types[name], getattr(self, name))

    @classmethod
    def offsetof(cls, path: str) -> int:
        """Offset in bytes of a field, or of a member of a nested structure: `offsetof("arch.cr2")`."""
        if path not in cls._offsets:
            dtype: np.dtype[Any] = cls.dtype
            offset = 0
            for name in path.split("."):
                if (fields := dtype.base.fields) is None:
                    raise KeyError(path)
                dtype, offset = fields[name][0], offset + fields[name][1]
            cls._offsets[path] = offset
        return cls._offsets[path]

    @classmethod
    def array(cls, buffer: Buffer, count: int, offset: int = 0) -> npt.NDArray[np.void]:
        """A view of `count` records in a row as a numpy structured array; writable if the buffer is."""
        return np.frombuffer(buffer, cls.dtype, count, offset)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]  # a record can be changed

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({values})"


class Union(Struct, size=0):
    """Base of every C union: all arms lie at offset 0, and reading an arm decodes the union's bytes."""

    _overlaid = True

    def __init_subclass__(cls, size: int | None, pack: int = 8) -> None:
        super().__init_subclass__(size, pack)
        cls._decoders, cls._zero = [], {"raw": bytes(cls.sizeof)}
        for name, arm in cls._types.items():
            setattr(cls, name, property(partial(read_arm, arm), partial(write_arm, arm)))

    def __init__(self, **arm: Any) -> None:
        if len(arm) > 1:
            raise TypeError(f"{type(self).__name__} takes one arm, not {', '.join(arm)}")
        super().__init__(**arm)

    @classmethod
    def unpack(cls, buffer: Buffer, offset: int = 0) -> Self:
        """The union's bytes at `offset` into `buffer`, not yet decoded."""
        record = cls.__new__(cls)
        (record.__dict__["raw"],) = cls._codec.unpack_from(buffer, offset)
        return record

    def pack(self) -> bytes:
        """The union's `sizeof` bytes."""
        raw: bytes = self.__dict__["raw"]
        return raw


def read_arm(arm: CType, union: Union) -> Any:
    """The value of one arm, decoded from the union's bytes."""
    (value,) = struct.unpack_from("<" + arm.code, union.__dict__["raw"])
    return arm.decode(value) if arm.decode else value


def write_arm(arm: CType, union: Union, value: Any) -> None:
    """Replace the union's bytes by those of one arm, filled up with zeros."""
    union.__dict__["raw"] = fitted(encoded(arm, value), union.sizeof)
