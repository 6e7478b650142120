"""XSA-327: a vcpu_info that is not aligned.

The flaw. VCPUOP_register_vcpu_info checked that the structure lies inside one page, not that it is aligned; on the
word that the hypervisor then changed atomically the host's CPU faulted.

The probe. All 4096 offsets: accepted are those where the structure fits into the page and is aligned as its first
8-byte field is, and no others; a refused one leaves no reference, and the registered frame cannot become a table.
Negative control: with offsets whose low bits nobody sees unaligned ones are accepted.
"""

from collections.abc import Iterator

import pytest

from hypervisor.public.vcpu import VCPUOP_register_vcpu_info, vcpu_register_vcpu_info
from hypervisor.public.xen import MMUEXT_PIN_L1_TABLE, Hypercall, vcpu_info
from tests.hypervisor.mm.caller import Caller, callers
from tests.hypervisor.mm.test_mmuext_op import op


@pytest.fixture
def guest() -> Iterator[Caller]:
    with callers() as (_, guest):
        yield guest


def register(guest: Caller, mfn: int, offset: int) -> int:
    arg = guest.record(vcpu_register_vcpu_info(mfn=mfn, offset=offset))
    return guest.call(Hypercall.vcpu_op, VCPUOP_register_vcpu_info, 0, arg)


def test_only_aligned_places_inside_a_page_are_accepted(guest: Caller) -> None:
    (frame,) = guest.spare()
    for offset in [*range(4096), 4096, 1 << 31, (1 << 32) - 8]:
        fits = offset % 8 == 0 and offset + vcpu_info.sizeof <= 4096
        if fits:
            continue
        arg = guest.record(vcpu_register_vcpu_info(mfn=frame, offset=offset))
        result = guest.machine.hypercall(
            guest.built.vcpu, Hypercall.vcpu_op, VCPUOP_register_vcpu_info, 0, arg
        )
        assert isinstance(result, int)
        assert result < 0
        assert guest.mmu.frames.refs[frame] == 1
    assert register(guest, frame, 4096 - vcpu_info.sizeof) == 0
    assert guest.mmuext_op(op(MMUEXT_PIN_L1_TABLE, frame))[0] < 0
    assert register(guest, frame, 0) < 0, "D7: once"


class LowBitsUnseen(int):
    """An offset whose alignment cannot be seen."""

    def __and__(self, mask: int) -> int:
        return 0


def test_without_alignment_odd_places_are_accepted(guest: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    original = vcpu_register_vcpu_info.unpack

    def unpack(data: bytes) -> vcpu_register_vcpu_info:
        record = original(data)
        record.offset = LowBitsUnseen(record.offset)
        return record

    (frame,) = guest.spare()
    monkeypatch.setattr(vcpu_register_vcpu_info, "unpack", staticmethod(unpack))
    assert register(guest, frame, 1) == 0
