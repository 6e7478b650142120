"""XSA-134: GNTTABOP_swap_grant_ref before there is a table.

The flaw. A grant table came to be with the first operation that set it up; swap_grant_ref did not ask
whether that had happened, and used a null pointer.

The probe. Every sub-operation, alone and in a batch of three, with structures of zeros and of ones, is the
very first hypercall of a domain. Each is answered, none crashes the domain or the hypervisor, and everything
is consistent.
"""

import pytest

from hypervisor.hypercalls.grant_table_op import BATCHED, SINGLE
from hypervisor.public.errno import Errno
from hypervisor.public.xen import Hypercall
from tests.hypervisor.grants.granting import granting_domains

OPS = sorted({int(op) for op in (*BATCHED, *SINGLE)})


@pytest.mark.parametrize("fill", [0x00, 0xFF])
def test_every_sub_operation_may_be_a_domains_first_call(fill: int) -> None:
    with granting_domains() as house:
        for cmd in OPS:
            guest = house.dom1
            for count in (1, 3):
                guest.poke(guest.page(0).va, bytes([fill]) * 4096)
                result = guest.hypercall(Hypercall.grant_table_op, cmd, guest.page(0).va, count)
                assert isinstance(result, int), f"operation {cmd} ended the domain"
                assert -max(Errno) <= result <= 0
        assert house.machine.hv.counters["hypervisor bugs"] == 0
