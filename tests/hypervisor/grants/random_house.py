"""The house of the random tests of grants: three domains, what there is to choose from, and what may not change.

A refused operation must leave everything as it was: `perform` compares a picture before and after.
"""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize

from hypervisor.public.errno import Errno
from hypervisor.public.grant_table import (
    grant_entry_v2_sub_page,
)
from hypervisor.public.types import DomId, GrantRef
from hypervisor.public.xen import DOMID_SELF
from tests.hypervisor.grants.granting import Guest, granting_domains

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


class RandomHouse(RuleBasedStateMachine):
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
