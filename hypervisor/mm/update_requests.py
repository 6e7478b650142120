"""mmu_update's requests: whose tables, whose frames, with what right, and how far a list of them got (U1–U6).

foreigndom:  bits 0-15 domain that owns the frames (DOMID_SELF for oneself)
             bits 16-31 domain that owns the tables, plus one; 0 for oneself
"""

import numpy as np

from hypervisor.mm import update_batch
from hypervisor.mm.budget import (
    COST_OF_BATCHED_UPDATE,
    COST_OF_RUN,
    COST_OF_UPDATE,
    Portion,
    Progress,
    Restart,
)
from hypervisor.mm.domain_memory import DomainMemory
from hypervisor.mm.m2p import M2P
from hypervisor.mm.update import Updates
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import DomId
from hypervisor.public.xen import (
    DOMID_IO,
    DOMID_SELF,
    DOMID_XEN,
    MMU_MACHPHYS_UPDATE,
    MMU_NORMAL_PT_UPDATE,
    MMU_PT_UPDATE_NO_TRANSLATE,
    MMU_PT_UPDATE_PRESERVE_AD,
)

Owners = tuple[DomainMemory, int]
"""Owner of the tables, domid of the frames' owner."""

_PT_COMMANDS = (int(MMU_NORMAL_PT_UPDATE), int(MMU_PT_UPDATE_PRESERVE_AD), int(MMU_PT_UPDATE_NO_TRANSLATE))
_PRESERVE_AD = int(MMU_PT_UPDATE_PRESERVE_AD)
_MACHPHYS = int(MMU_MACHPHYS_UPDATE)


class UpdateRequests:
    """Performs requests; `domains` finds the owners that foreigndom names."""

    def __init__(self, updates: Updates, m2p: M2P, domains: dict[DomId, DomainMemory]) -> None:
        self.updates = updates
        self.m2p = m2p
        self.domains = domains

    def owners(self, d: DomainMemory, foreigndom: int) -> Owners:
        """Whose tables and frames the requests of `d` are about. XenError(ESRCH): unknown, or oneself by number (U1)."""
        pt_owner = d
        if foreigndom >> 16:
            found = self.domains.get(DomId((foreigndom >> 16) - 1))
            if found is None:
                raise XenError(Errno.ESRCH, f"U1: there is no domain {(foreigndom >> 16) - 1}")
            pt_owner = found
            if found.p2m is not None:
                raise XenError(
                    Errno.EINVAL, f"U1: d{found.domid} is translated: its tables are its own matter"
                )
            if pt_owner is not d and not pt_owner.vcpus:
                raise XenError(Errno.EINVAL, f"U1: d{pt_owner.domid} has no vCPU")
        return pt_owner, self.pg_owner(d, foreigndom & 0xFFFF)

    def pg_owner(self, d: DomainMemory, domid: int) -> int:
        """The domid that owns the frames a request names. XenError(ESRCH) as in `owners`."""
        if domid == DOMID_SELF:
            return d.domid
        if domid in (DOMID_IO, DOMID_XEN) or (domid != d.domid and domid in self.domains):
            return domid
        raise XenError(Errno.ESRCH, f"U1: d{d.domid} named domain {domid}")

    def run(
        self, d: DomainMemory, owners: Owners, requests: bytes, portion: Portion, progress: Progress
    ) -> None:
        """Requests (struct mmu_update each) in order until one is refused, the budget is out, or all are done (U6).

        `progress` goes on where earlier lists of the same portion left it. A table that a request dropped is torn
        down before the next one (U9): that is a restart, too.
        """
        pt_owner, pg_owner = owners
        owner = self._owner_of_run(d, pg_owner) if pt_owner is d else None
        if progress.done and portion.budget.exhausted:
            progress.restart = True
            return
        words = memoryview(requests).cast("Q")
        if owner is not None and portion.vcpu.old_table is None and len(words) >= 2 * update_batch.MIN_RUN:
            array = np.frombuffer(requests, np.uint64)
            values = array[1::2] if owner.p2m is None else owner.p2m.entries_of(array[1::2])
            if values is not None and update_batch.try_updates(
                self.updates.types, d, array[0::2], values, owner=owner
            ):
                progress.done += len(array) // 2
                portion.budget.spend(COST_OF_RUN + COST_OF_BATCHED_UPDATE * (len(array) // 2))
                return
        try:
            for i in range(0, len(words), 2):
                if portion.vcpu.old_table is not None or (progress.done and portion.budget.exhausted):
                    raise Restart
                portion.budget.spend(COST_OF_UPDATE)
                self.perform(d, pt_owner, pg_owner, words[i], words[i + 1], portion)
                progress.done += 1
        except Restart:
            progress.restart = True
        except XenError as refusal:
            progress.error = refusal

    def _owner_of_run(self, d: DomainMemory, pg_owner: int) -> DomainMemory | None:
        """The owner of the frames that many requests of `d` name together; None: they are looked at one by one."""
        if pg_owner == d.domid:
            return d
        owner = self.domains.get(DomId(pg_owner))
        return owner if owner is not None and d.controls(pg_owner) else None

    def perform(
        self, d: DomainMemory, pt_owner: DomainMemory, pg_owner: int, ptr: int, value: int, portion: Portion
    ) -> None:
        """One request of `d`: put `value` at `ptr`, whose low bits are the command. XenError; Restart: ask again."""
        command = ptr & 7
        if command in _PT_COMMANDS:
            self._check_privilege(d, pt_owner.domid, pg_owner)
            self.updates.pt_update(
                ptr - command, value, pt_owner, pg_owner, portion, preserve_ad=command == _PRESERVE_AD
            )
        elif command == _MACHPHYS:
            self._machphys_update(d, pt_owner, pg_owner, ptr >> 12, value)
        else:
            raise XenError(Errno.ENOSYS, f"U6: mmu_update command {command}")

    def _machphys_update(
        self, d: DomainMemory, pt_owner: DomainMemory, pg_owner: int, mfn: int, pfn: int
    ) -> None:
        """Only in the caller's own name, only for a frame of `pg_owner` (U5)."""
        if pt_owner is not d:
            raise XenError(Errno.EPERM, "U5: M2P update with foreign tables")
        self._check_privilege(d, d.domid, pg_owner)
        owner = self.domains.get(DomId(pg_owner))
        if owner is not None and owner.p2m is not None:
            raise XenError(Errno.EINVAL, f"U5: d{pg_owner} is translated: its P2M says what the M2P says")
        frames = self.updates.frames
        frames.get_page(mfn, pg_owner)
        self.m2p.set(mfn, pfn)
        frames.put_page(mfn)

    def _check_privilege(self, d: DomainMemory, pt_owner: int, pg_owner: int) -> None:
        """XenError(EPERM): the caller may not act on the tables' or the frames' owner (U2)."""
        if pt_owner == pg_owner == d.domid:
            return
        if pg_owner != DOMID_IO and not d.controls(pg_owner):
            raise XenError(Errno.EPERM, f"U2: d{d.domid} may not map frames of d{pg_owner}")
        if not d.controls(pt_owner):
            raise XenError(Errno.EPERM, f"U2: d{d.domid} may not change tables of d{pt_owner}")
