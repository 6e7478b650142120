"""Grant tables from both sides: giving others access to a frame, and using what others gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hypervisor.public.types import DomId, GrantRef, Mfn, VAddr


class GrantMapping(NamedTuple):
    """Granted frames of another domain, side by side at `va`."""

    va: VAddr
    handles: tuple[int, ...]


class CopyEnd(NamedTuple):
    """One end of a grant copy: `frame` is a GrantRef of `domid`, or with DOMID_SELF a frame number of this
    domain.
    """

    domid: DomId
    frame: GrantRef | Mfn
    offset: int


class GrantCopy(NamedTuple):
    """Copy `length` bytes; neither end may cross its page. At most one end is of another domain by ref."""

    source: CopyEnd
    dest: CopyEnd
    length: int


class Grants:
    """The grant table and the grants mapped from others."""

    def grant_access(self, domid: DomId, mfn: Mfn, readonly: bool = False) -> GrantRef:
        """Let `domid` map or copy `mfn`; XenError(ENOSPC) when the table is full."""
        raise NotImplementedError

    def end_access(self, ref: GrantRef) -> bool:
        """Revoke; False, and nothing changed, while the other domain uses it."""
        raise NotImplementedError

    def map(self, domid: DomId, refs: Sequence[GrantRef], writable: bool = True) -> GrantMapping:
        """Map frames that `domid` granted, all or none; XenError."""
        raise NotImplementedError

    def unmap(self, mapping: GrantMapping) -> None:
        """Let them go; XenError if Xen refuses a handle."""
        raise NotImplementedError

    def copy(self, ops: Sequence[GrantCopy]) -> list[int]:
        """Copy without mapping; the GNTST_… status of each."""
        raise NotImplementedError

    def transfer(self, domid: DomId, ref: GrantRef, mfn: Mfn) -> None:
        """Give the frame away for good to `domid`, which expects it at `ref`; XenError."""
        raise NotImplementedError
