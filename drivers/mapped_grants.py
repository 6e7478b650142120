"""Pages of front ends, mapped by back ends.

A front end that keeps Xen from taking its page back must not stop the back end's domain: `unmap` never fails.
What Xen cannot do yet, because the granter runs all the while, is tried again later; what it refuses is said on
the console, and stays mapped.
"""

from collections.abc import Sequence
from typing import Final

from domains.kernel.grants import GrantError, GrantMapping
from domains.kernel.kernel import Kernel
from hypervisor.public.errno import XenError
from hypervisor.public.grant_table import GNTST_eagain
from hypervisor.public.types import DomId, GrantRef

RETRY: Final = 0.5
"""Seconds."""


class MappedGrants:
    """What Grants does, for a kernel that serves others."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def map(self, domid: DomId, refs: Sequence[GrantRef], writable: bool = True) -> GrantMapping:
        """As Grants.map. Raises XenError."""
        return self._kernel.grants.map(domid, refs, writable)

    def unmap(self, mapping: GrantMapping) -> None:
        """Let them go, now or later."""
        self._unmap(mapping, tried=False)

    def _unmap(self, mapping: GrantMapping, tried: bool) -> None:
        try:
            self._kernel.grants.unmap(mapping)
        except XenError as error:
            later = isinstance(error, GrantError) and error.status == GNTST_eagain
            if not (later and tried):
                print(f"a front end's pages stay mapped: {error}")
            if later:
                self._kernel.call_later(RETRY, lambda: self._unmap(mapping, tried=True))
