"""GNTTABOP_set_version: a domain chooses the form of its own table (G15).

Every entry goes but the first eight, which the toolstack wrote and may be using (console, xenstore). Nobody else may
use any. A version 2 table has status frames beside it, which a return to version 1 frees: refused while the guest
still maps one (XSA-255, XSA-379, XSA-384). Source: Xen's xen/common/grant_table.c, gnttab_set_version.
"""

from __future__ import annotations

from typing import Final

from hypervisor.grants.grant_table import GrantTable
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.grant_table import (
    GNTTAB_NR_RESERVED_ENTRIES,
    GTF_invalid,
    GTF_permit_access,
    GTF_reading,
    GTF_transitive,
    GTF_type_mask,
    GTF_writing,
    grant_entry_header,
    grant_entry_v1,
    grant_entry_v2,
    grant_entry_v2_full_page,
)
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, GrantRef

_TYPE, _PERMIT, _TRANSITIVE = int(GTF_type_mask), int(GTF_permit_access), int(GTF_transitive)
_USED: Final = int(GTF_reading | GTF_writing)
_RESERVED: Final = tuple(map(GrantRef, range(GNTTAB_NR_RESERVED_ENTRIES)))


def set_version(table: GrantTable, version: int) -> None:
    """The caller's own table. XenError, and nothing changed: EINVAL, ENOSYS, EBUSY, ERANGE, ENOMEM."""
    if version not in (1, 2):
        raise XenError(Errno.EINVAL, f"there is no grant table version {version}")
    if version > table.max_version:
        raise XenError(Errno.ENOSYS, f"d{table.domid} may not have a grant table of version {version}")
    if version == table.shared.version:
        return
    used = [ref for ref in table.active if ref >= GNTTAB_NR_RESERVED_ENTRIES]
    if used:
        raise XenError(Errno.EBUSY, f"G15: entry {used[0]:#x} of d{table.domid} is in use")
    if version == 2:
        upgrade(table)
    else:
        downgrade(table)


def upgrade(table: GrantTable) -> None:
    """To version 2. XenError(ENOMEM): no frame for the status words."""
    try:
        table.populate_status(len(table.frames))
    except XenError:
        table.unpopulate_status()
        raise
    kept = [grant_entry_v1.unpack(table.memory.read(table.shared.maddr(ref), 8)) for ref in _RESERVED]
    clear(table)
    table.become(2)
    for ref, old in zip(_RESERVED, kept, strict=True):
        new = grant_entry_v2_full_page(
            hdr=grant_entry_header(flags=old.flags & ~_USED, domid=old.domid), frame=old.frame
        )
        table.memory.write(table.shared.maddr(ref), new.pack())
        table.shared.set_status(ref, old.flags & _USED)


def downgrade(table: GrantTable) -> None:
    """To version 1. XenError: ERANGE (a reserved entry that version 1 cannot hold), EBUSY (a status frame is mapped)."""
    kept = [as_version_1(table, ref) for ref in _RESERVED]
    table.unpopulate_status()
    clear(table)
    table.become(1)
    for ref, entry in zip(_RESERVED, kept, strict=True):
        table.memory.write(table.shared.maddr(ref), entry.pack())


def as_version_1(table: GrantTable, ref: GrantRef) -> grant_entry_v1:
    """A reserved entry with its status, as version 1 writes it; one that grants nothing becomes invalid."""
    entry = grant_entry_v2.unpack(table.memory.read(table.shared.maddr(ref), grant_entry_v2.sizeof)).full_page
    kind = entry.hdr.flags & _TYPE
    if kind == _TRANSITIVE or (kind == _PERMIT and entry.frame >> 32):
        raise XenError(Errno.ERANGE, f"G15: entry {ref:#x} of d{table.domid} does not fit version 1")
    if kind != _PERMIT:
        return grant_entry_v1(flags=int(GTF_invalid))
    flags = entry.hdr.flags | table.shared.status(ref)
    return grant_entry_v1(flags=flags, domid=entry.hdr.domid, frame=entry.frame)


def clear(table: GrantTable) -> None:
    """What the old version wrote must not be read as the new one's."""
    for mfn in table.frames:
        table.memory.write(mfn << PAGE_SHIFT, bytes(PAGE_SIZE))
