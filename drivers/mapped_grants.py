"""Pages of front ends, mapped by back ends, without waiting.

A front end that keeps Xen from taking its page back must not stop the back end's domain: `unmap` never fails.
What Xen cannot do yet, because the granter runs, is tried again later, and no other page of that front is mapped before;
what Xen refuses is said on the console, and stays mapped.
"""

from collections.abc import Sequence

from domains.kernel.grants import GranterRuns, GrantMapping
from domains.kernel.kernel import Kernel
from drivers.retry import Retry
from hypervisor.public.errno import XenError
from hypervisor.public.types import DomId, GrantRef


class MappedGrants:
    """What Grants does, for a kernel that serves others. One for each front."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._to_unmap: list[GrantMapping] = []
        self._retry = Retry(kernel, self._try_unmap)

    def map(self, domid: DomId, refs: Sequence[GrantRef], writable: bool = True) -> GrantMapping:
        """As Grants.try_map. Raises XenError; GranterRuns: try again later."""
        if not self._try_unmap():
            raise GranterRuns(f"map for d{domid} before an unmap")
        try:
            return self._kernel.grants.try_map(domid, refs, writable)
        except GranterRuns as late:
            if late.owed is not None:
                self.unmap(late.owed)
            raise

    def unmap(self, mapping: GrantMapping) -> None:
        """Let them go, now or later."""
        self._to_unmap.append(mapping)
        if not self._retry.pending:
            self._try_unmap()

    def _try_unmap(self) -> bool:
        """Unmap what can be unmapped now; whether nothing is left."""
        while self._to_unmap:
            try:
                self._kernel.grants.try_unmap(self._to_unmap[-1])
            except GranterRuns:
                self._retry.arrange()
                return False
            except XenError as error:
                print(f"a front end's pages stay mapped: {error}")
            self._to_unmap.pop()
            self._retry.progress()
        return True
