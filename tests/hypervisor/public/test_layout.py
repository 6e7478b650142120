"""How declared structures behave: C's layout, checked sizes, records, unions, numpy views."""

import random
import struct
from typing import Annotated, Any

import pytest

from hypervisor.public.grant_table import gnttab_map_grant_ref
from hypervisor.public.layout import Struct, Union, i16, u8, u16, u32, u64
from hypervisor.public.types import DomId
from hypervisor.public.xen import shared_info
from tests.hypervisor.public import abi


class point(Struct, size=8):
    """A member with padding inside."""

    x: u8
    y: u32


class number(Union, size=8):
    """Arms of different sizes."""

    wide: u64
    narrow: u16
    at: point


class sample(Struct, size=56):
    """One of each kind of member."""

    small: u8
    signed: i16
    text: Annotated[bytes, 5]
    number: number
    points: Annotated[tuple[point, ...], 3]
    words: Annotated[tuple[u16, ...], 3]
    last: u8


def test_fields_lie_where_c_puts_them() -> None:
    offsets = [sample.offsetof(f) for f in ("small", "signed", "text", "number", "points", "words", "last")]
    assert offsets == [0, 2, 4, 16, 24, 48, 54]
    assert (sample.sizeof, sample.alignof, sample.dtype.itemsize) == (56, 8, 56)


def test_packing_limits_the_alignment() -> None:
    e820, four = {"a": u8, "b": u64, "c": u8}, {"a": u32, "b": u64}
    by_byte: Any = type("by_byte", (Struct,), {"__annotations__": e820}, size=10, pack=1)
    by_four: Any = type("by_four", (Struct,), {"__annotations__": four}, size=12, pack=4)
    assert [by_byte.offsetof(f) for f in "abc"] == [0, 1, 9]
    assert by_four(b=1).pack() == bytes(4) + b"\1" + bytes(7)


def test_a_wrong_size_cannot_be_declared() -> None:
    with pytest.raises(TypeError, match="takes 8 bytes, declared are 12"):
        type("wrong", (Struct,), {"__annotations__": {"a": u8, "b": u32}}, size=12)


def test_offsets_reach_into_members_and_array_items() -> None:
    assert shared_info.offsetof("arch.p2m_vaddr") == shared_info.offsetof("arch") + 32
    assert shared_info.offsetof("vcpu_info.time.version") == 32
    with pytest.raises(KeyError):
        shared_info.offsetof("wc_sec.year")


def test_what_is_not_named_is_zero() -> None:
    record = gnttab_map_grant_ref(dom=DomId(5), status=-1)
    assert (record.dom, record.status, record.host_addr) == (5, -1, 0)
    assert record.pack() == bytes(16) + b"\5\0\xff\xff" + bytes(12)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="no field domid"):
        gnttab_map_grant_ref(domid=1)


def test_values_that_do_not_fit_are_refused() -> None:
    for wrong in ({"small": 256}, {"signed": 1 << 15}, {"words": (1, 2)}, {"words": (0, 0, 1 << 16)}):
        with pytest.raises(struct.error):
            sample(**wrong).pack()
    with pytest.raises(ValueError, match="6 bytes do not fit into 5"):
        sample(text=b"longer").pack()
    with pytest.raises(struct.error):
        sample.unpack(bytes(sample.sizeof - 1))


def test_a_record_survives_packing() -> None:
    record = sample(
        small=1,
        signed=-2,
        text=b"abc\0\0",
        number=number(at=point(x=3, y=4)),
        points=(point(x=5), point(y=6), point()),
        words=(7, 8, 9),
        last=10,
    )
    assert sample.unpack(b"---" + record.pack(), 3) == record


def test_one_field_packs_to_its_bytes() -> None:
    record = sample(signed=-2, words=(1, 2, 3))
    assert record.pack_field("signed") == b"\xfe\xff"
    assert record.pack_field("words") == b"\1\0\2\0\3\0"
    assert record.pack_field("text") == bytes(5)


def test_arms_of_a_union_are_views_of_the_same_bytes() -> None:
    union = number(wide=0x0000_0004_0000_0003)
    assert (union.narrow, union.at) == (3, point(x=3, y=4))
    union.narrow = 5
    assert union.wide == 5
    with pytest.raises(TypeError, match="one arm"):
        number(wide=1, narrow=1)


def test_a_numpy_view_shares_the_buffer() -> None:
    buffer = bytearray(3 * point.sizeof + 1)
    view = point.array(buffer, 3, offset=1)
    view["y"] = [1, 2, 3]
    assert [point.unpack(buffer, 1 + n * point.sizeof).y for n in range(3)] == [1, 2, 3]


def scalars(record: Any, view: Any) -> list[tuple[Any, Any]]:
    """Pairs of the same value: read from the record, and read by numpy."""
    if isinstance(record, Struct):
        return [pair for name in view.dtype.names for pair in scalars(getattr(record, name), view[name])]
    if isinstance(record, tuple):
        return [pair for item, seen in zip(record, view, strict=True) for pair in scalars(item, seen)]
    return [(record, view.tobytes() if isinstance(record, bytes) else int(view))]


@pytest.mark.parametrize("structure", abi.own(Struct), ids=lambda structure: structure.__name__)
def test_struct_and_numpy_read_the_same_values(structure: type[Struct]) -> None:
    raw = random.Random(structure.__name__).randbytes(structure.sizeof)
    record = structure.unpack(raw)
    assert all(mine == seen for mine, seen in scalars(record, structure.array(raw, 1)[0]))
    assert structure.unpack(record.pack()) == record
