"""Random hypercalls of three domains on each other's grants, deaths in the middle included.

Domain 1 keeps the rules when it writes its entries, domain 2 writes what it likes whenever it likes; each changes the
version of its table as it pleases. After
every step all grants are recounted, after every few every frame of the machine; what was refused must have
changed nothing, and what was allowed must have been offered.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from hypervisor.grants import copying, mapping
from hypervisor.grants.grant_table import GrantTable
from hypervisor.grants.maptrack import Maptrack
from hypervisor.mm.grant_entries import GrantEntries
from hypervisor.public.errno import Errno
from hypervisor.public.grant_table import (
    GrantTableOp,
    gnttab_copy,
    gnttab_map_grant_ref,
    gnttab_swap_grant_ref,
    gnttab_transfer,
    gnttab_unmap_and_replace,
    gnttab_unmap_grant_ref,
    grant_entry_v2_sub_page,
)
from hypervisor.public.types import PAGE_SHIFT, DomId, GrantRef
from hypervisor.public.xen import DOMID_SELF
from tests.hypervisor.grants.granting import PTE_FLAGS, Guest, by_frame, by_ref, granting_domains

PAGES = 5
REFS = range(7, 12)
"""The first is one of the reserved entries, which may be in use while the version changes."""
who = st.integers(0, 2)
pages = st.integers(0, PAGES - 1)
refs = st.sampled_from(REFS)
any_refs = refs | refs | st.sampled_from([0, 511, 512, 2**31, 2**32 - 1])
domids = who | st.sampled_from([int(DOMID_SELF), 77, 0x7FF2])
map_flags = st.sampled_from([1, 2, 2, 2, 3, 5, 6, 6, 7, 10, 18, 22, 0, 4, 0xFFFF_FFFF])
entry_flags = st.sampled_from([1, 1, 1, 5, 2, 0, 3, 9, 0x19, 0x101, 6, 0xFFFF])
offsets = st.sampled_from([0, 8, 4088, 4095, 4096, 65535])
lengths = st.sampled_from([0, 1, 8, 4088, 4096, 4097, 65535])
versions = st.sampled_from([1, 2])
rarely = st.integers(0, 9).map(lambda number: number == 3)


class RandomGrants(RuleBasedStateMachine):
    """One house per example; the strange addresses and frames are picked from lists made when it stands."""

    @initialize(versions=st.tuples(versions, versions, versions))
    def build(self, versions: tuple[int, int, int]) -> None:
        self._context = granting_domains()
        self.house = self._context.__enter__()
        self.house.honest = {DomId(0), DomId(1)}
        self.alive = set(range(3))
        self.handles: dict[int, list[tuple[int, int, int]]] = {0: [], 1: [], 2: []}
        for guest, version in zip(self.house.guests, versions, strict=True):
            assert guest.set_version(version) == 0
            self.offer_much(guest)

    def offer_much(self, guest: Guest) -> None:
        for ref in REFS[1:]:
            guest.offer(ref, 0 if ref < 10 else guest.domid, guest.page(ref - 7).mfn)

    def teardown(self) -> None:
        if hasattr(self, "house"):
            self._context.__exit__(None, None, None)

    # --- what there is to choose from ------------------------------------------------------------------

    def frame(self, d: int, number: int, strange: int) -> int:
        guest = self.house.guests[d]
        odd = [
            guest.built.domain.shared_info,
            next(iter([*guest.grants.status_frames, *guest.grants.frames]), 0),
            int(guest.built.vcpu.mem.cr3 or 0),
            1,
            2**24 - 1,
            2**32 - 1,
        ]
        return odd[strange] if strange < len(odd) else int(guest.page(number).mfn)

    def address(self, guest: Guest, number: int, flags: int, strange: int) -> int:
        if strange == 0:
            return 0x1000
        if strange == 1:
            return 0xFFFF_8000_0000_0000
        if flags & 16:
            return guest.pte_address(guest.page(20).va) + 8 * number + (strange == 2)
        return int(guest.page(20 + number).va)

    def picture(self) -> Any:
        frames = self.house.machine.hv.frames
        tables = [guest.grants for guest in self.house.guests]
        return (
            frames.refs_np[: frames.top].tobytes(),
            frames.tcount_np[: frames.top].tobytes(),
            frames.owner_np[: frames.top].tobytes(),
            [
                {ref: (a.domid, a.mfn, a.pin, a.start, a.length) for ref, a in t.active.items()}
                for t in tables
            ],
            [table.shared.version for table in tables],
            [len(table.maptrack) for table in tables],
            [self.entries(guest) for guest in self.house.guests],
        )

    def entries(self, guest: Guest) -> list[bytes]:
        """Its shared entries; of domain 2 without the flags it sets by itself: a refusal clears them, as on
        Xen.
        """
        grants = guest.grants
        frames = [guest.memory.page(mfn).copy() for mfn in (*grants.frames, *grants.status_frames)]
        if guest.domid == 2:
            for frame in frames:
                frame.view("<u2")[:] &= np.uint16(0xFFFF - 0x18)
        return [frame.tobytes() for frame in frames]

    def perform(self, d: int, cmd: int, record: Any) -> Any:
        """One operation; if it is refused, everything is as before. None if the domain is dead."""
        if d not in self.alive:
            return None
        guest = self.house.guests[d]
        guest.poke(guest.page(400).va, record.pack())
        before = self.picture()
        done = guest.one(cmd, record)
        assert done.status <= 0, "G17: a positive status"
        if done.status < 0:
            assert self.picture() == before, f"refused with {done.status}, but something changed"
        return done

    # --- rules -------------------------------------------------------------------------------------------

    @rule(d=who, ref=refs, to=who, flags=entry_flags, of=who, page=pages, strange=st.integers(0, 30))
    def write_entry(self, d: int, ref: int, to: int, flags: int, of: int, page: int, strange: int) -> None:
        guest = self.house.guests[d]
        if d not in self.alive:
            return
        if d != 2:
            if GrantRef(ref) in guest.grants.active:
                return
            flags &= ~0x18 if guest.version == 1 else 0xFFFF
            of = d
        guest.offer(ref, to, self.frame(of, page, strange), flags)

    @rule(
        granter=who,
        d=who,
        ref=refs,
        page=pages,
        start=st.sampled_from([0, 8, 4000]),
        length=lengths,
        late=offsets,
    )
    def copy_a_part(
        self, granter: int, d: int, ref: int, page: int, start: int, length: int, late: int
    ) -> None:
        """Some bytes of a frame are offered; what is copied lies among them. A version 1 table offers all."""
        owner = self.house.guests[granter]
        if not {granter, d} <= self.alive or owner.version == 1 or GrantRef(ref) in owner.grants.active:
            return
        owner.offer_part(ref, d, owner.page(page).mfn, start, length)
        offset = (start + late) % 4096
        own = by_frame(DOMID_SELF, self.house.guests[d].page(page).mfn)
        op = gnttab_copy(source=by_ref(granter, ref, offset), dest=own, len=8, flags=1)
        if self.perform(d, GrantTableOp.GNTTABOP_copy, op).status == 0:
            assert start <= offset <= offset + 8 <= start + length, "G13: bytes that were not granted"

    @rule(ref=refs, status=st.sampled_from([0, 8, 16, 24, 0xFFFF]))
    def scribble_over_the_status(self, ref: int, status: int) -> None:
        """Domain 2 writes its own status frames, which is to nobody's harm but its own."""
        guest = self.house.guests[2]
        if guest.version == 2 and guest.grants.status_frames:
            at = (guest.grants.status_frames[0] << PAGE_SHIFT) + 2 * ref
            guest.memory.write(at, status.to_bytes(2, "little"))

    @rule(d=who, version=versions | st.just(3), change=st.sampled_from([None, 0, 0x61, 0x63]), really=rarely)
    def set_version(self, d: int, version: int, change: int | None, really: bool) -> None:
        """G15; a status frame is mapped or unmapped before, and everything is offered anew afterwards."""
        if d not in self.alive or not really:
            return
        guest = self.house.guests[d]
        if change is not None and guest.version == 2:
            entry = guest.grants.status_frames[0] << PAGE_SHIFT | change if change else 0
            assert guest.update_va_mapping(guest.page(60).va, entry) == 0
        before, old, kept = self.picture(), guest.version, guest.entry(7)
        frames = self.house.machine.hv.frames
        busy = any(ref >= 8 for ref in guest.grants.active)
        mapped = any(frames.refs[mfn] > 1 for mfn in guest.grants.status_frames)
        kind = guest.head(7)[0] & 3
        result = guest.set_version(version)
        if result:
            assert self.picture() == before, f"set_version refused with {result}, but something changed"
        assert result == self.result_of_set_version(old, version, busy=busy, mapped=mapped, kind=kind)
        if result == 0 and version != old:
            assert [guest.entry(ref).frame for ref in (8, 300 // version)] == [0, 0]
            assert guest.entry(7).frame == (kept.frame if version == 2 or kind == 1 else 0)
            self.offer_much(guest)

    @staticmethod
    def result_of_set_version(old: int, new: int, *, busy: bool, mapped: bool, kind: int) -> int:
        """Entry 7 holds no frame number that version 1 could not."""
        if new == 3:
            return -Errno.EINVAL
        if new == old:
            return 0
        if busy:
            return -Errno.EBUSY
        if new == 1 and kind == 3:
            return -Errno.ERANGE
        return -Errno.EBUSY if mapped else 0

    @rule(d=who, to=who, ref=refs, page=pages, readonly=rarely)
    def offer(self, d: int, to: int, ref: int, page: int, readonly: bool) -> None:
        """A proper entry, if nobody uses the old one."""
        guest = self.house.guests[d]
        if d in self.alive and GrantRef(ref) not in guest.grants.active:
            guest.offer(ref, to, guest.page(page).mfn, 5 if readonly else 1)

    @rule(d=who, granter=who, ref=any_refs, flags=map_flags, page=pages, strange=st.integers(0, 30))
    def map(self, d: int, granter: int, ref: int, flags: int, page: int, strange: int) -> None:
        guest, other = self.house.guests[d], self.house.guests[granter]
        if d not in self.alive:
            return
        offered = self.is_offered(other, ref, d, flags)
        address = self.address(guest, page, flags, strange)
        op = gnttab_map_grant_ref(host_addr=address, flags=flags, ref=GrantRef(ref), dom=other.domid)
        done = self.perform(d, GrantTableOp.GNTTABOP_map_grant_ref, op)
        if done.status == 0:
            assert offered, f"G2: d{d} mapped entry {ref:#x} of d{granter}, which was not offered"
            assert granter == d or d == 0, "a domain sees another's memory"
            self.handles[d].append((done.handle, address, done.dev_bus_addr))

    @rule(pick=st.integers(0, 99), flags=st.sampled_from([1, 2, 3, 5, 6, 7, 18]), page=pages)
    def map_what_is_offered(self, pick: int, flags: int, page: int) -> None:
        """So that many maps come to be: one of those that should succeed."""
        offers = [
            (mapper, granter, ref)
            for granter in self.alive
            for mapper in {0, granter} & self.alive
            for ref in REFS
            if self.is_offered(self.house.guests[granter], ref, mapper, flags)
        ]
        if offers:
            mapper, granter, ref = offers[pick % len(offers)]
            self.map(mapper, granter, ref, flags, page, 30)

    def is_offered(self, granter: Guest, ref: int, to: int, flags: int, part: int = 0) -> bool:
        """All of the frame, or its first `part` bytes for a copy."""
        active = granter.grants.active.get(GrantRef(ref))
        if active is not None:
            return active.domid == to
        if ref >= len(granter.grants.shared):
            return False
        has, domid = granter.head(ref)
        wanted = has & 3 == 1 and domid == to and bool(flags & 4 or not has & 4)
        if not has & 0x100 or (part and granter.version == 1):
            return wanted
        raw = granter.memory.read(granter.entry_address(ref), 16)
        piece = grant_entry_v2_sub_page.unpack(raw)
        return wanted and 0 < part <= piece.length and piece.page_off == 0

    @rule(d=who, pick=st.integers(0, 99), host=st.booleans(), dev=st.booleans(), wrong=st.integers(0, 30))
    def unmap(self, d: int, pick: int, host: bool, dev: bool, wrong: int) -> None:
        if not self.handles[d]:
            return
        handle, address, dev_addr = self.handles[d][pick % len(self.handles[d])]
        op = gnttab_unmap_grant_ref(
            handle=handle + (wrong == 1) + (2**31 if wrong == 2 else 0),
            host_addr=(address + 4096 * (wrong == 3)) & 2**64 - 1 if host else 0,
            dev_bus_addr=dev_addr + (wrong == 4) if dev else 0,
        )
        self.perform(d, GrantTableOp.GNTTABOP_unmap_grant_ref, op)

    @rule(d=who, pick=st.integers(0, 99), page=pages)
    def unmap_and_replace(self, d: int, pick: int, page: int) -> None:
        """As on Xen, the entry at the new address is gone even when this is refused."""
        if not self.handles[d] or d not in self.alive:
            return
        handle, address, _ = self.handles[d][pick % len(self.handles[d])]
        guest = self.house.guests[d]
        op = gnttab_unmap_and_replace(handle=handle, host_addr=address, new_addr=guest.page(30 + page).va)
        assert guest.one(GrantTableOp.GNTTABOP_unmap_and_replace, op).status <= 0

    @rule(
        d=who,
        source=domids,
        dest=domids,
        from_ref=any_refs,
        to_ref=any_refs,
        flags=st.integers(0, 3),
        offset=offsets,
        length=lengths,
        page=pages,
    )
    def copy_anything(
        self,
        d: int,
        source: int,
        dest: int,
        from_ref: int,
        to_ref: int,
        flags: int,
        offset: int,
        length: int,
        page: int,
    ) -> None:
        own = self.frame(d, page, from_ref % 40)
        op = gnttab_copy(
            source=by_ref(source, from_ref, offset) if flags & 1 else by_frame(source, own, offset),
            dest=by_ref(dest, to_ref) if flags & 2 else by_frame(dest, own),
            len=length,
            flags=flags,
        )
        self.perform(d, GrantTableOp.GNTTABOP_copy, op)

    @rule(d=who, granter=who, ref=refs, page=pages, into=st.booleans())
    def copy(self, d: int, granter: int, ref: int, page: int, into: bool) -> None:
        """Between a frame of one's own and a grant, which may or may not be offered."""
        own, grant = by_frame(DOMID_SELF, self.house.guests[d].page(page).mfn), by_ref(granter, ref)
        op = gnttab_copy(source=own, dest=grant, len=64, flags=2)
        if not into:
            op = gnttab_copy(source=grant, dest=own, len=64, flags=1)
        offered = self.is_offered(self.house.guests[granter], ref, d, 0 if into else 4, part=64)
        done = self.perform(d, GrantTableOp.GNTTABOP_copy, op)
        if done is not None and done.status == 0:
            assert offered, f"G2: d{d} copied through entry {ref:#x} of d{granter}, which was not offered"

    @rule(d=who, to=domids, ref=any_refs, page=pages, unmapped=st.booleans(), strange=st.integers(0, 30))
    def transfer(self, d: int, to: int, ref: int, page: int, unmapped: bool, strange: int) -> None:
        if d not in self.alive:
            return
        if unmapped:
            self.house.guests[d].update_va_mapping(self.house.guests[d].page(page).va, 0)
        op = gnttab_transfer(mfn=self.frame(d, page, strange), domid=DomId(to), ref=GrantRef(ref))
        self.perform(d, GrantTableOp.GNTTABOP_transfer, op)

    @rule(d=who, a=any_refs, b=any_refs)
    def swap(self, d: int, a: int, b: int) -> None:
        op = gnttab_swap_grant_ref(ref_a=GrantRef(a), ref_b=GrantRef(b))
        self.perform(d, GrantTableOp.GNTTABOP_swap_grant_ref, op)

    @rule(d=who, page=pages, mfn_of=pages, clear=st.booleans())
    def overwrite_a_mapping(self, d: int, page: int, mfn_of: int, clear: bool) -> None:
        """G10: the guest changes the page-table entry of a grant map by itself."""
        if d in self.alive:
            guest = self.house.guests[d]
            entry = 0 if clear else guest.page(40 + mfn_of).mfn << PAGE_SHIFT | PTE_FLAGS
            guest.update_va_mapping(guest.page(20 + page).va, entry)

    @rule(d=who, really=rarely)
    def die(self, d: int, really: bool) -> None:
        if really and d in self.alive and len(self.alive) > 1:
            self.alive.discard(d)
            self.house.machine.destroy(self.house.guests[d].built.domain)
            self.house.recount()


TestRandomGrants = RandomGrants.TestCase
TestRandomGrants.settings = settings(
    max_examples=15, stateful_step_count=40, deadline=None, phases=[Phase.reuse, Phase.generate]
)


# --- negative controls: the core without one of its checks ------------------------------------------------


def flags_stay(patch: pytest.MonkeyPatch) -> None:
    """G11: the flags outlive the last pin."""
    patch.setattr(GrantTable, "_withdraw", lambda self, ref, pin, *, readonly: None)


def anyone_may_use_it(patch: pytest.MonkeyPatch) -> None:
    """G2: the first pin asks nobody."""
    patch.setattr(GrantTable, "_announce", lambda self, ref, user, active, **kind: None)


def device_references_leak(patch: pytest.MonkeyPatch) -> None:
    """G4, G7: what a device part held is never dropped."""
    drop = mapping.drop_parts
    patch.setattr(mapping, "drop_parts", lambda granter, mfn, flags: drop(granter, mfn, flags & ~1))


def both_parts_at_once(patch: pytest.MonkeyPatch) -> None:
    """XSA-224: a partial unmap drops the references of both parts."""
    drop = mapping.drop_parts
    patch.setattr(
        mapping, "drop_parts", lambda granter, mfn, flags: drop(granter, mfn, flags | (flags & 2) >> 1)
    )


def stale_handles_are_good(patch: pytest.MonkeyPatch) -> None:
    """G6: a handle that was given back can be used again."""
    gone: dict[tuple[int, int], Any] = {}
    get, remove = Maptrack.get, Maptrack.remove

    def remember(self: Maptrack, handle: int) -> None:
        gone[id(self), handle] = self._records[handle]
        remove(self, handle)

    patch.setattr(Maptrack, "remove", remember)
    patch.setattr(
        Maptrack, "get", lambda self, h: gone[id(self), h] if (id(self), h) in gone else get(self, h)
    )


def any_entry_will_do(patch: pytest.MonkeyPatch) -> None:
    """G8: unmap clears whatever is at the address."""

    def replace(self: GrantEntries, v: Any, addr: int, mfn: int, flags: int, new: int) -> None:
        l1, slot = self._find(v, addr, flags)
        self.types.tables.write_entry(l1, slot, new)

    patch.setattr(GrantEntries, "_replace", replace)


def a_copy_keeps_a_reference(patch: pytest.MonkeyPatch) -> None:
    """G13: a copy holds on to its destination."""
    held = copying.writable

    def keeps(owner: GrantTable, mfn: Any) -> Any:
        owner.mmu.frames.get_page(mfn, owner.domid)
        return held(owner, mfn)

    patch.setattr(copying, "writable", keeps)


def status_frames_go_in_use(patch: pytest.MonkeyPatch) -> None:
    """G15: a return to version 1 asks nobody who has the status frames (XSA-255)."""

    def freed(self: GrantTable) -> None:
        while self.status_frames:
            self.mmu.allocator.free_xen_page(self.status_frames.pop())

    patch.setattr(GrantTable, "unpopulate_status", freed)


def any_part_is_all_of_it(patch: pytest.MonkeyPatch) -> None:
    """G13: a copy goes beyond what is granted of a frame."""
    patch.setattr(copying, "require_within", lambda part, offset, length: None)


MUTATIONS = [
    status_frames_go_in_use,
    any_part_is_all_of_it,
    flags_stay,
    anyone_may_use_it,
    device_references_leak,
    both_parts_at_once,
    stale_handles_are_good,
    any_entry_will_do,
    a_copy_keeps_a_reference,
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_random_operations_find_a_missing_check(
    mutation: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation(monkeypatch)
    once = settings(
        max_examples=120,
        stateful_step_count=40,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        derandomize=True,
    )
    with pytest.raises((AssertionError, KeyError, ValueError, ExceptionGroup)):
        run_state_machine_as_test(RandomGrants, settings=once)
