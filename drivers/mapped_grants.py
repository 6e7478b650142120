"""Pages of front ends, mapped by back ends: `unmap` never fails.

What Xen refuses to unmap is said on the console, and stays mapped; the back end's domain goes on.
"""

from collections.abc import Sequence

from domains.kernel.grants import GrantMapping
from domains.kernel.kernel import Kernel
from hypervisor.public.errno import XenError
from hypervisor.public.types import DomId, GrantRef


class MappedGrants:
    """What Grants does, for a kernel that serves others."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def map(self, domid: DomId, refs: Sequence[GrantRef], writable: bool = True) -> GrantMapping:
        """As Grants.map. Raises XenError."""
        return self._kernel.grants.map(domid, refs, writable)

    def unmap(self, mapping: GrantMapping) -> None:
        """Let them go."""
        try:
            self._kernel.grants.unmap(mapping)
        except XenError as error:
            print(f"a front end's pages stay mapped: {error}")
