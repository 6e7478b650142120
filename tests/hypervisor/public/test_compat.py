"""A 32-bit guest's structures are Xen's: compared with the recorded table, and that with the headers; and how records convert."""

import re
import subprocess

import pytest

from hypervisor.public.abi import COMPAT, NATIVE
from hypervisor.public.arch_x86 import xen_x86_32
from hypervisor.public.event_channel import evtchn_send
from hypervisor.public.memory import xen_memory_exchange, xen_memory_reservation
from hypervisor.public.types import DomId, Port, VAddr
from hypervisor.public.vcpu import vcpu_register_runstate_memory_area, vcpu_runstate_info
from hypervisor.public.xen import mmuext_op, mmuext_op_arg1
from tests.hypervisor.public import compat_abi
from tests.hypervisor.public.abi import MEASURABLE


def test_layouts_are_those_of_the_recorded_table() -> None:
    assert compat_abi.declared() == compat_abi.recorded()


@pytest.mark.needs_headers
@pytest.mark.skipif(not MEASURABLE, reason="libxen-dev is not installed")
def test_recorded_table_is_what_the_c_compiler_says_of_the_headers_in_32_bits() -> None:
    assert compat_abi.measured() == compat_abi.recorded()


@pytest.mark.needs_headers
@pytest.mark.skipif(not MEASURABLE, reason="libxen-dev is not installed")
def test_numbers_of_32_bit_guests_are_those_of_the_header() -> None:
    ours = {
        name: value
        for name, value in vars(xen_x86_32).items()
        if isinstance(value, int) and name.isupper() and name[0] != "_"
    }
    text = "#include <xen/xen.h>\n" + "".join(f"{name}_ = {name}\n" for name in ours)
    command = ["gcc", "-m32", "-E", "-P", "-x", "c", "-"]
    lines = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    found = [int(number, 16) for number in re.findall(r" = (0x\w+?)(?:UL)?$", lines, re.MULTILINE)]
    assert dict(zip(ours, found[-len(ours) :], strict=True)) == ours


def test_a_structure_that_is_the_same_in_both_widths_is_its_own_layout() -> None:
    assert COMPAT.layout(evtchn_send) is evtchn_send
    assert COMPAT.sizeof(evtchn_send) == NATIVE.sizeof(evtchn_send)


def test_a_native_record_is_written_as_a_32_bit_guest_has_it() -> None:
    side = xen_memory_reservation(extent_start=VAddr(0x1000), nr_extents=2, extent_order=3, domid=DomId(5))
    layout = COMPAT.layout(xen_memory_exchange)
    raw = layout.pack(xen_memory_exchange(in_=side, out=side, nr_exchanged=7))
    record = layout.unpack(raw)
    assert len(raw) == layout.sizeof == 44
    assert (record.out.extent_start, record.out.domid, record.nr_exchanged) == (0x1000, 5, 7)
    assert layout.pack(record) == raw
    assert layout.pack_field(record, "nr_exchanged") == raw[layout.offsetof("nr_exchanged") :][:4]


def test_numbers_of_64_bits_are_aligned_to_four_bytes() -> None:
    layout = COMPAT.layout(vcpu_runstate_info)
    raw = layout.pack(vcpu_runstate_info(state=1, state_entry_time=2, time=(3, 4, 5, 6)))
    assert raw == b"\1\0\0\0" + b"".join(n.to_bytes(8, "little") for n in (2, 3, 4, 5, 6))


def test_a_pointer_in_a_union_is_read_in_32_bits_whatever_lies_behind_it() -> None:
    raw = (0xDEAD_BEEF_0000_1000).to_bytes(8, "little")
    area = COMPAT.layout(vcpu_register_runstate_memory_area).unpack(raw)
    assert (area.addr.v, area.addr.p) == (0x1000, 0xDEAD_BEEF_0000_1000)


def test_a_union_of_another_layout_is_not_written_by_guessing_its_arm() -> None:
    with pytest.raises(TypeError, match="mmuext_op_arg1 cannot be written in 32 bits"):
        COMPAT.layout(mmuext_op).pack(mmuext_op(arg1=mmuext_op_arg1(mfn=5)))


def test_words_are_four_bytes_each() -> None:
    assert COMPAT.word == 4
    assert COMPAT.pack_words([1, 2]) == b"\1\0\0\0\2\0\0\0"
    assert COMPAT.words(b"\xff\xff\xff\xff\2\0\0\0").tolist() == [0xFFFF_FFFF, 2]
    assert evtchn_send.unpack(evtchn_send(port=Port(3)).pack()).port == 3
