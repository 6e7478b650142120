"""Grants between two kernels: what is given is seen, what is taken back is gone, what is in use stays."""

import numpy as np
import pytest

from domains.kernel.grants import ENTRIES_PER_FRAME, CopyEnd, GrantCopy, GrantError, InOrder
from domains.kernel.kernel import Kernel, PageFault
from hypervisor.public.errno import XenError
from hypervisor.public.grant_table import (
    GNTCOPY_dest_gref,
    GNTST_bad_copy_arg,
    GNTST_bad_gntref,
    GNTST_okay,
    GTF_invalid,
    gnttab_copy,
)
from hypervisor.public.types import PAGE_SIZE, DomId, GrantRef
from hypervisor.public.xen import DOMID_SELF
from tests.domains.kernel.one_process import PythonDomain
from tests.inprocess import InProcess

DOM0 = DomId(0)


@pytest.fixture
def control(machine: InProcess) -> Kernel:
    """Dom0's kernel, which may map what others grant."""
    return PythonDomain(machine, privileged=True).boot()


def test_a_granted_page_is_mapped_and_shared(control: Kernel, domain: PythonDomain, kernel: Kernel) -> None:
    pages = [kernel.memory.alloc_page() for _ in range(3)]
    refs = [kernel.grants.grant_access(DOM0, page.mfn) for page in pages]
    mapping = control.grants.map(domain.gate.domid, refs)
    kernel.cpu.store(pages[2].va, b"to Dom0")
    assert control.cpu.load(mapping.va + 2 * PAGE_SIZE, 7) == b"to Dom0"
    control.cpu.store(mapping.va, b"to the guest")
    assert kernel.cpu.load(pages[0].va, 12) == b"to the guest"
    control.grants.unmap(mapping)
    with pytest.raises(PageFault):
        control.cpu.load(mapping.va, 1)


def test_access_does_not_end_while_the_other_side_has_it_mapped(
    control: Kernel, domain: PythonDomain, kernel: Kernel
) -> None:
    ref = kernel.grants.grant_access(DOM0, kernel.memory.alloc_page().mfn)
    assert not kernel.grants.in_use(ref)
    mapping = control.grants.map(domain.gate.domid, [ref])
    assert kernel.grants.in_use(ref)
    assert not kernel.grants.end_access(ref)
    control.grants.unmap(mapping)
    assert kernel.grants.end_access(ref)
    with pytest.raises(GrantError):
        control.grants.map(domain.gate.domid, [ref])


def test_a_reference_is_used_again_after_its_access_ended(kernel: Kernel) -> None:
    page = kernel.memory.alloc_page()
    ref = kernel.grants.grant_access(DOM0, page.mfn)
    assert kernel.grants.end_access(ref)
    assert kernel.grants.grant_access(DOM0, page.mfn) == ref


def test_the_table_grows_to_its_limit_and_no_further(kernel: Kernel) -> None:
    page = kernel.memory.alloc_page()
    refs = {kernel.grants.grant_access(DOM0, page.mfn) for _ in range(3 * ENTRIES_PER_FRAME)}
    assert len(refs) == 3 * ENTRIES_PER_FRAME
    with pytest.raises(XenError, match="no entry"):
        kernel.grants.grant_access_at(GrantRef(1 << 20), DOM0, page.mfn)


def test_a_read_only_grant_is_not_mapped_writable(
    control: Kernel, domain: PythonDomain, kernel: Kernel
) -> None:
    ref = kernel.grants.grant_access(DOM0, kernel.memory.alloc_page().mfn, readonly=True)
    with pytest.raises(GrantError):
        control.grants.map(domain.gate.domid, [ref])
    mapping = control.grants.map(domain.gate.domid, [ref], writable=False)
    with pytest.raises(PageFault):
        control.cpu.store(mapping.va, b"x")


def test_one_bad_reference_leaves_none_mapped(control: Kernel, domain: PythonDomain, kernel: Kernel) -> None:
    ref = kernel.grants.grant_access(DOM0, kernel.memory.alloc_page().mfn)
    with pytest.raises(GrantError) as error:
        control.grants.map(domain.gate.domid, [ref, GrantRef(40000)])
    assert error.value.status == GNTST_bad_gntref
    assert kernel.grants.end_access(ref)


def test_copies_go_both_ways_and_the_first_refused_one_is_raised(
    control: Kernel, domain: PythonDomain, kernel: Kernel
) -> None:
    theirs, mine = kernel.memory.alloc_page(), control.memory.alloc_page()
    domid = domain.gate.domid
    ref = kernel.grants.grant_access(DOM0, theirs.mfn)
    kernel.cpu.store(theirs.va, b"from the guest")
    control.cpu.store(mine.va + 100, b"from Dom0")
    with pytest.raises(GrantError) as refused:
        control.grants.copy(
            [
                GrantCopy(CopyEnd(domid, ref, 0), CopyEnd(DOMID_SELF, mine.mfn, 0), 14),
                GrantCopy(CopyEnd(domid, ref, 4090), CopyEnd(DOMID_SELF, mine.mfn, 0), 14),
                GrantCopy(CopyEnd(DOMID_SELF, mine.mfn, 100), CopyEnd(domid, ref, 4000), 9),
            ]
        )
    assert refused.value.status == GNTST_bad_copy_arg
    assert control.cpu.load(mine.va, 14) == b"from the guest"
    assert kernel.cpu.load(theirs.va + 4000, 9) == b"from Dom0"
    assert not kernel.grants.in_use(ref)


def test_copies_in_order_end_with_the_first_that_is_refused(
    control: Kernel, domain: PythonDomain, kernel: Kernel
) -> None:
    theirs, mine = kernel.memory.alloc_page(), control.memory.alloc_page()
    ref = kernel.grants.grant_access(DOM0, theirs.mfn)
    control.cpu.store(mine.va, b"entry")
    control.cpu.store(mine.va + 8, b"index")
    rows = np.zeros(2, gnttab_copy.dtype)
    rows["source"]["u"]["gmfn"], rows["source"]["domid"] = mine.mfn, DOMID_SELF
    rows["dest"]["u"]["ref"], rows["dest"]["domid"] = ref, domain.gate.domid
    rows["source"]["offset"] = rows["dest"]["offset"] = [0, 8]
    rows["len"], rows["flags"] = 5, GNTCOPY_dest_gref
    assert control.grants.copy_in_order(rows) == InOrder(2, GNTST_okay)
    assert kernel.cpu.load(theirs.va, 16) == b"entry\0\0\0index\0\0\0"
    rows["dest"]["u"]["ref"][1] = 40000
    assert control.grants.copy_in_order(rows) == InOrder(1, GNTST_bad_gntref)


def test_an_ended_access_leaves_an_invalid_entry(kernel: Kernel) -> None:
    ref = kernel.grants.grant_access(DOM0, kernel.memory.alloc_page().mfn)
    kernel.grants.end_access(ref)
    assert kernel.cpu.load(kernel.grants._entry(ref), 4) == bytes([GTF_invalid] * 4)
