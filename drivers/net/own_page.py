"""A page of this domain that its network back end may use."""

from typing import NamedTuple

from domains.kernel.kernel import Kernel
from domains.kernel.memory import Page
from hypervisor.public.types import PAGE_SIZE, DomId, GrantRef


class OwnPage(NamedTuple):
    """The page, its grant, and a view of it."""

    page: Page
    ref: GrantRef
    view: memoryview


def grant(kernel: Kernel, backend: DomId) -> OwnPage:
    """A new page that `backend` may use. Raises XenError if there is no page, or no grant, left."""
    page = kernel.memory.alloc_page()
    ref = kernel.grants.grant_access(backend, page.mfn)
    return OwnPage(page, ref, kernel.cpu.view(page.va, PAGE_SIZE, True))


def take_back(kernel: Kernel, own: OwnPage) -> None:
    """Revoke the grant; a page that the back end still holds is given up rather than used for anything else."""
    if kernel.grants.end_access(own.ref):
        kernel.memory.free_page(own.page)
