"""Handlers read a guest's arguments through its ABI table, so a guest of another width needs another table and nothing else."""

import struct
from typing import Any

import pytest

from hypervisor.public.abi import NATIVE, Abi
from hypervisor.public.layout import Buffer
from hypervisor.public.memory import XENMEM_populate_physmap, xen_memory_reservation
from hypervisor.public.xen import DOMID_SELF, Hypercall
from tests.hypervisor.mm.caller import callers


class CompatReservation:
    """struct compat_memory_reservation (Xen public/memory.h as a 32-bit guest sees it): every number takes 4 bytes.

    The guest here is one of x86-64 that plays a narrow one: its memory lies at the top of the address space.
    """

    sizeof = 20
    FORM = struct.Struct("<IIIIHxx")
    TOP = 0xFFFF_FFFF << 32

    def unpack(self, buffer: Buffer, offset: int = 0) -> xen_memory_reservation:
        start, nr, order, flags, domid = self.FORM.unpack_from(buffer, offset)
        return xen_memory_reservation(
            extent_start=self.TOP | start, nr_extents=nr, extent_order=order, mem_flags=flags, domid=domid
        )

    def pack(self, record: Any) -> bytes:
        return self.FORM.pack(
            record.extent_start & ~self.TOP,
            record.nr_extents,
            record.extent_order,
            record.mem_flags,
            record.domid,
        )

    def pack_field(self, record: Any, name: str) -> bytes:
        raise NotImplementedError(name)

    def offsetof(self, path: str) -> int:
        raise NotImplementedError(path)


COMPAT = Abi(32, {xen_memory_reservation: CompatReservation()})


@pytest.mark.parametrize(("abi", "word"), [(NATIVE, 8), (COMPAT, 4)])
def test_a_list_of_frames_is_read_and_written_in_words_of_the_guests_width(abi: Abi, word: int) -> None:
    with callers() as (_, guest):
        guest.built.domain.abi = abi
        pfns = [0x100 + i for i in range(16)]
        slots = guest.put(abi.pack_words(pfns), offset=512)
        request = xen_memory_reservation(extent_start=slots, nr_extents=16, domid=DOMID_SELF)
        arg = guest.put(abi.layout(xen_memory_reservation).pack(request))
        assert guest.call(Hypercall.memory_op, XENMEM_populate_physmap, arg) == 16
        mfns = abi.words(guest.get(512, 16 * word)).tolist()
        assert [guest.machine.hv.mmu.m2p.get(mfn) for mfn in mfns] == pfns
