"""An independent recount of grants: G1, G3, G4, G6, G11, G12 from the handles alone.

The pins of every entry are counted again from all mappers' handles and compared with the active entries, the
flags in the shared entries with the pins. Nothing may be in flight: call it between hypercalls, or between
two of their slices.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from hypervisor.grants.grant_table import GrantTable
from hypervisor.grants.maptrack import Mapping
from hypervisor.public.grant_table import (
    GNTMAP_device_map,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GTF_reading,
    GTF_writing,
)
from hypervisor.public.types import DomId, GrantRef, Mfn


class Held(NamedTuple):
    """What grant maps hold of one frame, beside what page-table entries hold."""

    refs: int
    writers: int


def recount_grants(tables: Iterable[GrantTable], *, honest: Iterable[DomId] | None = None) -> None:
    """AssertionError naming domain, entry and rule if any table is inconsistent.

    `honest` names the granters that do not scribble over their own GTF_reading and GTF_writing; None: all.
    """
    everybody = list(tables)
    pins: Counter[tuple[DomId, GrantRef]] = Counter()
    users: dict[tuple[DomId, GrantRef], set[DomId]] = {}
    for mapper in everybody:
        live = mapper.maptrack.items()
        assert len(live) == len(mapper.maptrack), f"G6: d{mapper.domid} counts {len(mapper.maptrack)} handles"
        for handle, mapping in live:
            where = f"d{mapper.domid} handle {handle:#x}"
            assert mapping.granter in everybody, f"K4: {where} leads to a domain that is gone"
            assert parts(mapping), f"G7: {where} has no part left"
            entry = mapping.granter.domid, mapping.ref
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
    assert len(granter.shared.frames) <= granter.max_grant_frames, f"G1: {whose} has too many grant frames"
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
        assert frames.refs[active.mfn] > 0, f"G11: {where} is pinned and its frame {active.mfn:#x} is free"
    for mfn, held in grant_references([granter]).items():
        assert frames.refs[mfn] >= held.refs, (
            f"G4: frame {mfn:#x} has {frames.refs[mfn]} references, grants {held}"
        )
        assert frames.tcount[mfn] >= held.writers, (
            f"G4: frame {mfn:#x} has {frames.tcount[mfn]} types, {held}"
        )
    if check_flags:
        recount_flags(granter)


def recount_flags(granter: GrantTable) -> None:
    """Every entry's reading and writing flags say exactly what its pins say (G11, G12)."""
    for number in range(len(granter.shared)):
        ref = GrantRef(number)
        flags = granter.shared.head(ref) & int(GTF_reading | GTF_writing)
        if flags or ref in granter.active:
            active = granter.active.get(ref)
            wanted = (
                0 if active is None else int(GTF_reading) | (int(GTF_writing) if writers(active.pin) else 0)
            )
            if active is None and granter.shared.head(ref) & 3 == 2:
                continue  # accept_transfer: there the bits mean committed and completed
            assert flags == wanted, (
                f"G11: d{granter.domid} entry {ref:#x} has flags {flags:#x}, pins say {wanted:#x}"
            )


def grant_references(tables: Iterable[GrantTable]) -> dict[Mfn, Held]:
    """What the pins of these granters hold, frame by frame; for the recount of the frame table (F2, F3)."""
    held: dict[Mfn, Held] = {}
    for granter in tables:
        for active in granter.active.values():
            counters = active.pin.to_bytes(4, "little")
            old = held.get(active.mfn, Held(0, 0))
            held[active.mfn] = Held(old.refs + sum(counters), old.writers + writers(active.pin))
    return held


def writers(pin: int) -> int:
    """How many of a pin word's uses may write: its first and third counter."""
    counters = pin.to_bytes(4, "little")
    return counters[0] + counters[2]


def parts(mapping: Mapping) -> int:
    return mapping.flags & int(GNTMAP_host_map | GNTMAP_device_map)


def pin_word(mapping: Mapping) -> int:
    """What one mapping counts for, from its flags: hstw, hstr, devw, devr from the lowest byte up."""
    shift = 8 if mapping.flags & int(GNTMAP_readonly) else 0
    host = 1 << shift if mapping.flags & int(GNTMAP_host_map) else 0
    device = 1 << 16 + shift if mapping.flags & int(GNTMAP_device_map) else 0
    return host + device
