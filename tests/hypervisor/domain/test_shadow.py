"""The memory of shadow page tables: charged to the machine's quota, told to the domain's process, given back at the domain's end.

Negative control: the machine's recount (tests/recount.py) finds a pool that is not given back.
"""

from collections.abc import Iterator

import pytest

from hypervisor.domain.domain import Life
from hypervisor.domain.info import domain_flags
from hypervisor.domain.shadow import FIRST_SHADOW_FRAMES, MIN_FRAMES_PER_VCPU
from hypervisor.public.domctl import (
    XEN_DOMCTL_SHADOW_OP_CLEAN,
    XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION,
    XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION,
    XEN_DOMCTL_CDF_hap,
    XEN_DOMCTL_CDF_hvm,
    XEN_DOMCTL_destroydomain,
    XEN_DOMCTL_get_paging_mempool_size,
    XEN_DOMCTL_set_paging_mempool_size,
    XEN_DOMCTL_shadow_op,
    XEN_DOMINF_hap,
    XEN_DOMINF_hvm_guest,
    xen_domctl_paging_mempool,
    xen_domctl_shadow_op,
)
from hypervisor.public.errno import Errno
from hypervisor.public.types import PAGE_SHIFT, DomId
from hypervisor.wire.mailbox import Engine
from tests.hypervisor.domain.test_hvm import create, domctl
from tests.hypervisor.hvm_caller import hvm_house
from tests.hypervisor.mm.caller import Caller

SHADOW = int(XEN_DOMCTL_CDF_hvm)
NESTED = int(XEN_DOMCTL_CDF_hvm | XEN_DOMCTL_CDF_hap)
DOMID = DomId(77)


@pytest.fixture
def dom0() -> Iterator[Caller]:
    with hvm_house() as (dom0, _):
        yield dom0


def set_pool(dom0: Caller, size: int) -> int:
    pool = xen_domctl_paging_mempool(size=size)
    return domctl(dom0, XEN_DOMCTL_set_paging_mempool_size, DOMID, paging_mempool=pool)


def shadow_op(dom0: Caller, op: int, mb: int = 0) -> int:
    return domctl(dom0, XEN_DOMCTL_shadow_op, DOMID, shadow_op=xen_domctl_shadow_op(op=int(op), mb=mb))


def test_a_domain_without_hap_has_shadows_and_says_so(dom0: Caller) -> None:
    hv = dom0.machine.hv
    before = hv.mmu.allocator.used_frames
    assert create(dom0, SHADOW) == 0
    domain = hv.domains[DOMID]
    assert domain.mailbox.engine is Engine.X86_64_SHADOW
    assert domain.mailbox.shadow_frames == domain.mem.paging_pool == FIRST_SHADOW_FRAMES
    assert domain_flags(domain) & (XEN_DOMINF_hvm_guest | XEN_DOMINF_hap) == XEN_DOMINF_hvm_guest
    assert hv.mmu.allocator.used_frames > before + FIRST_SHADOW_FRAMES
    assert domctl(dom0, XEN_DOMCTL_destroydomain, DOMID) == 0
    assert hv.mmu.allocator.used_frames == before


def test_the_pool_is_set_in_bytes_or_mib_and_never_below_the_least(dom0: Caller) -> None:
    create(dom0, SHADOW)
    domain = dom0.machine.hv.domains[DOMID]
    assert set_pool(dom0, 300 << PAGE_SHIFT) == 0
    assert domain.mailbox.shadow_frames == domain.mem.paging_pool == 300
    assert set_pool(dom0, 0) == 0
    assert domain.mem.paging_pool == MIN_FRAMES_PER_VCPU
    assert set_pool(dom0, 4097) == -Errno.EINVAL
    assert shadow_op(dom0, XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION, 3) == 0
    assert domain.mailbox.shadow_frames == domain.mem.paging_pool == 768
    assert shadow_op(dom0, XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION) == 0
    assert shadow_op(dom0, XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION, 0) == -Errno.EINVAL
    assert shadow_op(dom0, XEN_DOMCTL_SHADOW_OP_CLEAN) == -Errno.EOPNOTSUPP
    assert domctl(dom0, XEN_DOMCTL_get_paging_mempool_size, DOMID) == 0


def test_a_pool_that_the_machine_does_not_have_changes_nothing(dom0: Caller) -> None:
    hv = dom0.machine.hv
    create(dom0, SHADOW)
    used = hv.mmu.allocator.used_frames
    assert set_pool(dom0, hv.memory_frames << PAGE_SHIFT) == -Errno.ENOMEM
    assert hv.mmu.allocator.used_frames == used
    hv.mmu.allocator.quota_frames = used + 20
    assert domctl(dom0, XEN_DOMCTL_destroydomain, DOMID) == 0
    hv.mmu.allocator.quota_frames = hv.mmu.allocator.used_frames + 40
    assert create(dom0, SHADOW) == -Errno.ENOMEM
    assert hv.domains[DOMID].life is not Life.ALIVE
    assert hv.domains[DOMID].mem.paging_pool == 0


def test_the_pool_of_a_domain_that_has_started_stays(dom0: Caller) -> None:
    create(dom0, SHADOW)
    domain = dom0.machine.hv.domains[DOMID]
    domain.vcpus[0].run.seq = 2
    assert set_pool(dom0, 400 << PAGE_SHIFT) == -Errno.EBUSY
    assert domain.mem.paging_pool == FIRST_SHADOW_FRAMES


def test_nested_paging_and_pv_have_no_pool_to_set(dom0: Caller) -> None:
    create(dom0, NESTED)
    assert set_pool(dom0, 1 << 20) == -Errno.EOPNOTSUPP
    assert shadow_op(dom0, XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION) == -Errno.EOPNOTSUPP
    assert domctl(dom0, XEN_DOMCTL_get_paging_mempool_size, DOMID) == 0
    assert domctl(dom0, XEN_DOMCTL_get_paging_mempool_size, DomId(0)) == -Errno.EOPNOTSUPP
