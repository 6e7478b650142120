"""An independent recount of grants: G1, G3, G4, G6, G11, G12 from the handles alone.

The pins of every entry are counted again from all mappers' handles and compared with the active entries, the
flags in the shared entries, or in the status frames of a version 2 table, with the pins. Nothing may be
in flight: call it between hypercalls, or between two of their portions.
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from hypervisor.grants.grant_table import GrantTable
from hypervisor.grants.maptrack import Mapping
from hypervisor.machine.frame_types import PGC
from hypervisor.public.grant_table import (
    GNTMAP_device_map,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GTF_accept_transfer,
    GTF_reading,
    GTF_type_mask,
    GTF_writing,
)
from hypervisor.public.types import DomId, GrantRef

XENS_OWN = int(PGC.XEN | PGC.ALLOCATED)
HSTW, HSTR, DEVW, DEVR = range(4)
"""The counters of a pin word, from its lowest byte up."""


def recount_grants(tables: Iterable[GrantTable], *, honest: Iterable[DomId] | None = None) -> None:
    """AssertionError naming domain, entry and rule if any table is inconsistent.

    `honest` names the granters that do not scribble over their own GTF_reading and GTF_writing; None: all.
    """
    everybody = list(tables)
    domids = {table.domid for table in everybody}
    pins: Counter[tuple[DomId, GrantRef]] = Counter()
    users: dict[tuple[DomId, GrantRef], set[DomId]] = {}
    for mapper in everybody:
        live = mapper.maptrack.items()
        assert len(live) == len(mapper.maptrack), f"G6: d{mapper.domid} counts {len(mapper.maptrack)} handles"
        for handle, mapping in live:
            where = f"d{mapper.domid} handle {handle:#x}"
            assert mapping.granter in domids, f"K4: {where} leads to a domain that is gone"
            assert parts(mapping), f"G7: {where} has no part left"
            entry = mapping.granter, mapping.ref
            pins[entry] += pin_word(mapping)
            users.setdefault(entry, set()).add(mapper.domid)
    for granter in everybody:
        recount_granter(granter, pins, users, check_flags=honest is None or granter.domid in honest)


def recount_granter(
    granter: GrantTable,
    pins: Counter[tuple[DomId, GrantRef]],
    users: dict[tuple[DomId, GrantRef], set[DomId]],
    *,
    check_flags: bool,
) -> None:
    whose = f"d{granter.domid}"
    recount_frames(granter)
    counted = {ref for domid, ref in pins if domid == granter.domid}
    assert counted == set(granter.active), (
        f"G6: {whose} has active {set(granter.active)}, handles say {counted}"
    )
    frames = granter.mmu.frames
    for ref, active in granter.active.items():
        where = f"{whose} entry {ref:#x}"
        assert ref < len(granter.shared), f"G1: {where} is beyond the table"
        assert active.pin == pins[granter.domid, ref], (
            f"G4: {where} has pin {active.pin:#x}, not {pins[granter.domid, ref]:#x}"
        )
        assert users[granter.domid, ref] == {active.domid}, (
            f"G3: {where} is used by others than d{active.domid}"
        )
        assert frames.owner[active.mfn] == granter.domid, (
            f"G5: {where} leads to frame {active.mfn:#x} of another"
        )
        uses = sum(active.pin.to_bytes(4, "little"))
        assert frames.refs[active.mfn] >= uses, (
            f"G4, G11: {where} has {uses} uses of {frames.describe(active.mfn)}"
        )
    if check_flags:
        recount_flags(granter)


def recount_frames(granter: GrantTable) -> None:
    """The table's frames are Xen's own, in the granter's memfd, each once; as many as its version asks for
    (F12, G1, G15).
    """
    whose, frames = f"d{granter.domid}", granter.mmu.frames
    assert len(granter.frames) <= granter.max_grant_frames, f"G1: {whose} has too many grant frames"
    status = -(-len(granter.frames) // 8) if granter.shared.version == 2 else 0
    assert len(granter.status_frames) == status, (
        f"G15: {whose} has {len(granter.status_frames)} status frames, not {status}"
    )
    both = [*granter.frames, *granter.status_frames]
    assert len(set(both)) == len(both), f"G1: {whose} has a frame twice in its table"
    for mfn in both:
        assert frames.owner[mfn] == granter.domid, f"F12: {frames.describe(mfn)} is in the table of {whose}"
        assert frames.flags[mfn] & XENS_OWN == XENS_OWN, (
            f"F12: {frames.describe(mfn)} is in the table of {whose}"
        )


def recount_flags(granter: GrantTable) -> None:
    """Every entry's reading and writing flags say exactly what its pins say (G11, G12)."""
    version_1 = granter.shared.version == 1
    words = granter.frames if version_1 else granter.status_frames
    frames = [granter.memory.page(mfn).view("<u2")[:: 4 if version_1 else 1] for mfn in words]
    flags = np.concatenate([np.empty(0, dtype="<u2"), *frames])
    wanted = np.zeros(len(flags), dtype="<u2")
    for ref, active in granter.active.items():
        wanted[ref] = int(GTF_reading) | (int(GTF_writing) if writers(active.pin) else 0)
    wrong = (flags & int(GTF_reading | GTF_writing)) != wanted
    if version_1:  # in an entry to be transferred into these bits have other meanings
        wrong &= (flags & int(GTF_type_mask)) != int(GTF_accept_transfer)
    for at in np.flatnonzero(wrong).tolist():
        where = f"d{granter.domid} entry {at:#x}"
        raise AssertionError(f"G11: {where} has flags {flags[at]:#x}, pins say {wanted[at]:#x}")


def grant_references(tables: Iterable[GrantTable]) -> list[tuple[int, bool]]:
    """(frame, writable) of each host or device map's own reference, as tests/recount.py wants them in
    `held`.
    """
    return [
        (active.mfn, kind in (HSTW, DEVW))
        for granter in tables
        for active in granter.active.values()
        for kind, count in enumerate(active.pin.to_bytes(4, "little"))
        for _ in range(count)
    ]


def writers(pin: int) -> int:
    """How many of a pin word's uses may write."""
    counters = pin.to_bytes(4, "little")
    return counters[HSTW] + counters[DEVW]


def parts(mapping: Mapping) -> int:
    return mapping.flags & int(GNTMAP_host_map | GNTMAP_device_map)


def pin_word(mapping: Mapping) -> int:
    """What one mapping counts for, from its flags: hstw, hstr, devw, devr from the lowest byte up."""
    shift = 8 if mapping.flags & int(GNTMAP_readonly) else 0
    host = 1 << shift if mapping.flags & int(GNTMAP_host_map) else 0
    device = 1 << 16 + shift if mapping.flags & int(GNTMAP_device_map) else 0
    return host + device
