"""Whatever a translated guest asks for, in whatever order: every count is right, and the core meets nothing unforeseen.

Negative control: without the `put_page_and_type` of Physmap.remove_page it stops within some steps ("F2", "F3").
"""

import random

import numpy as np
import pytest

from hypervisor.mm.p2m import GFN_BITS
from hypervisor.public.vcpu import VCPUOP_down
from hypervisor.public.xen import DOMID_SELF, Hypercall
from tests.hypervisor.hvm_caller import ARGUMENTS, HvmCaller, hvm_house

HYPERCALLS = (
    *(Hypercall.memory_op,) * 12,
    *(Hypercall.hvm_op,) * 3,
    Hypercall.grant_table_op,
    Hypercall.vcpu_op,
    Hypercall.event_channel_op,
    Hypercall.xen_version,
    Hypercall.vm_assist,
    Hypercall.set_timer_op,
)
MEMORY_OPS = (0, 1, 6, 6, 7, 7, 7, 7, 11, 14, 15, 15, 23, 9, 13, 10)


def interesting(draw: random.Random) -> int:
    """A number that may be a frame, an address, a count, or nothing sensible."""
    return draw.choice(
        (
            draw.randrange(80),
            draw.randrange(80),
            draw.randrange(80),
            ARGUMENTS + 8 * draw.randrange(512),
            0xFE700 + draw.randrange(4),
            draw.randrange(1 << GFN_BITS),
            draw.choice((0, 1 << 31, (1 << 32) - 1, 1 << 52, 1 << 63, (1 << 64) - 1, (1 << GFN_BITS) - 1)),
            draw.getrandbits(64),
        )
    )


def an_argument(guest: HvmCaller, draw: random.Random) -> int:
    """A structure of random words in the page for arguments; often it is about the caller and well formed in its head."""
    words = np.array([interesting(draw) for _ in range(64)], np.uint64)
    if draw.random() < 0.8:  # xen_add_to_physmap, xen_remove_from_physmap, xen_hvm_param begin with a domid
        words[0] = DOMID_SELF | draw.randrange(8) << 32 | draw.choice((0, 1, 3)) << 16
    if draw.random() < 0.5:  # xen_memory_reservation
        words[:4] = (ARGUMENTS + 0x100, draw.randrange(24), draw.choice((0, 0, 0, 1, 4, 9)), DOMID_SELF)
    at = ARGUMENTS + 0x800 * draw.randrange(2)
    if guest.mfn(at >> 12) is None:
        guest.d.max_pages = guest.d.tot_pages + 20
        guest.mmu.reservation.populate(guest.d, at >> 12, 0)
    return guest.write(at, words.tobytes())


@pytest.mark.parametrize("seed", range(2))
def test_every_count_is_right_whatever_a_translated_guest_asks_for(steps: int | None, seed: int) -> None:
    draw = random.Random(seed)
    with hvm_house() as (_, guest):
        for _ in range(steps or 300):
            nr = draw.choice(HYPERCALLS)
            first = draw.choice(MEMORY_OPS) if nr == Hypercall.memory_op else draw.randrange(26)
            if nr == Hypercall.vcpu_op and first == VCPUOP_down:
                continue  # nobody would ask any more
            at = an_argument(guest, draw) if draw.random() < 0.95 else interesting(draw)
            if nr in (Hypercall.vcpu_op, Hypercall.grant_table_op):
                args = (first, 0, at) if nr == Hypercall.vcpu_op else (first, at, draw.randrange(4))
            else:
                args = (first, at, interesting(draw))
            guest.machine.hypercall(guest.vcpu, int(nr), *args)
            guest.recount()
            assert b"hypervisor bug" not in guest.machine.hv.log.read()
        guest.machine.destroy(guest.domain)
        guest.recount()
