"""Random hypercalls of three domains on each other's grants, deaths in the middle included.

Domain 1 keeps the rules when it writes its entries, domain 2 writes what it likes whenever it likes; each changes the
version of its table as it pleases. After
every step all grants are recounted, after every few every frame of the machine; what was refused must have
changed nothing, and what was allowed must have been offered.
"""

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from hypervisor.public.grant_table import (
    GrantTableOp,
    gnttab_copy,
    gnttab_map_grant_ref,
    gnttab_swap_grant_ref,
    gnttab_transfer,
    gnttab_unmap_and_replace,
    gnttab_unmap_grant_ref,
)
from hypervisor.public.types import PAGE_SHIFT, DomId, GrantRef
from hypervisor.public.xen import DOMID_SELF
from tests.hypervisor.grants.granting import PTE_FLAGS, by_frame, by_ref
from tests.hypervisor.grants.random_house import (
    REFS,
    RandomHouse,
    any_refs,
    domids,
    entry_flags,
    lengths,
    map_flags,
    offsets,
    pages,
    rarely,
    refs,
    versions,
    who,
)


class RandomGrants(RandomHouse):
    """One rule an operation."""

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
