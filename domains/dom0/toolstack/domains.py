"""Which domains there are, under which names: Xen knows the ids, xenstore the names, this toolstack how they
were made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Final
from uuid import UUID

from domains.control.description import DomainConfig
from domains.control.protocol import Exit
from domains.dom0.console.terminal import Terminal
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.store_tree import children, home, read_or_none
from domains.dom0.toolstack.xenctrl import DomainInfo, XenCtrl
from domains.kernel.tasks import Signal
from domains.kernel.xenbus import Xenbus
from hypervisor.public.types import DomId
from hypervisor.public.xen import DOMID_FIRST_RESERVED

DOM0_NAME: Final = "Domain-0"
CHILD: Final = re.compile("[1-9][0-9]{0,4}")
"""What is called so below /local/domain is a domain's."""
OF_BACKEND: Final = re.compile("/backend/[^/]+/([0-9]{1,5})(?:/|$)")


@dataclass(eq=False)
class Record:
    """A domain made by this toolstack.

    `created`: system time in ns; `warnings`: what its maker should know; `shutdown`: the SHUTDOWN_… or other number that was
    acted upon; `exit_code`: the one that the guest told; `restarting`: until it is known whether the domain is made again,
    when `restarted` is sent; `successor`: the domain that was made of it; `updated`: the description to make it by, if that is
    not `config`. Ids change over a restart, and the successor can be gone as soon as it is there: an operation that waits for it
    finds it here. `saving`: somebody writes it away; `unwanted_suspend`: it may still suspend on a request that was given up.
    """

    domid: DomId
    config: DomainConfig
    uuid: UUID
    created: int
    warnings: tuple[str, ...] = ()
    console: Terminal | None = None
    shutdown: int | None = None
    exit_code: int | None = None
    destroying: bool = False
    restarting: bool = False
    restarted: Signal = field(default_factory=Signal)
    successor: Record | None = None
    updated: DomainConfig | None = None
    saving: bool = False
    unwanted_suspend: bool = False
    arrives: bool = False
    """It comes from another machine, which may have its images until it runs here."""

    @property
    def has_ended(self) -> bool:
        """Whether it has shut down, and not only for as long as it is saved."""
        return self.shutdown is not None and not self.saving


class Domains:
    """Looks domains up; keeps the records."""

    def __init__(self, xen: XenCtrl, xenbus: Xenbus) -> None:
        self._xen = xen
        self._xenbus = xenbus
        self.records: dict[DomId, Record] = {}
        self.reserved: set[str] = set()
        """Names of domains that are on their way here from other machines."""
        self._changed: dict[DomId, Signal] = {}
        self.adopted: dict[DomId, None] = {}
        """Domains that others have made (adopted.py)."""
        self.ending: list[Callable[[DomId], None]] = []
        """Called when a domain's destruction begins, by those who may have something of it."""

    def changed(self, domid: DomId) -> Signal:
        """Sent when something of a domain changes that operations wait for: its record, the state of its devices, its
        end.
        """
        return self._changed.setdefault(domid, Signal())

    def tell(self, domid: DomId) -> None:
        """It has changed."""
        if domid in self._changed:
            self._changed[domid].send()

    def ends(self, domid: DomId) -> None:
        """Its destruction begins."""
        for callback in self.ending:
            callback(domid)

    def tell_of_gone(self, there: Container[DomId]) -> None:
        """All domains that are waited for and not `there` have changed."""
        for domid in [domid for domid in self._changed if domid not in there]:
            self.tell(domid)

    def forget(self, domid: DomId) -> None:
        """The domain is gone: tell those who wait for that, and keep nothing of it."""
        self.records.pop(domid, None)
        self.tell(domid)
        self._changed.pop(domid, None)

    def device_changed(self, path: str) -> None:
        """A node at or below …/backend/<kind>/<front end's domid> has changed: handler of a watch on `backend`."""
        found = OF_BACKEND.search(path)
        if found:
            self.tell(DomId(int(found[1])))

    def name_of(self, domid: DomId) -> str | None:
        """The name in the store; None if it has none there."""
        if domid == 0:
            return DOM0_NAME
        return read_or_none(self._xenbus, f"{home(domid)}/name")

    def find(self, wanted: str) -> DomainInfo:
        """The domain of that name or id. Raises ToolstackError(NO_SUCH_DOMAIN)."""
        info = None
        if wanted.isdecimal() and len(wanted) <= 5:
            domid = int(wanted)
            info = self._xen.getdomaininfo(DomId(domid)) if domid < DOMID_FIRST_RESERVED else None
        else:
            info = next(self._named(wanted), None)
        if info is None:
            raise ToolstackError(
                f"there is no domain '{wanted}'; 'xenctl list' shows those there are", Exit.NO_SUCH_DOMAIN
            )
        return info

    def _named(self, name: str) -> Iterator[DomainInfo]:
        """The domains of that name in the store. Those that were made under it come first: a look at each domain's node
        takes a while where there are hundreds.
        """
        if name == DOM0_NAME:
            domids = [DomId(0)]
        else:
            domids = sorted(self.records, key=lambda domid: self.records[domid].config.name != name)
            domids += self.adopted
        for domid in chain(domids, self._others()):
            if self.name_of(domid) == name and (info := self._xen.getdomaininfo(domid)) is not None:
                yield info

    def _others(self) -> Iterator[DomId]:
        """Those in the store that are neither the toolstack's own nor adopted: xl create has not come so far, or never will."""
        for child in children(self._xenbus, "/local/domain"):
            domid = DomId(int(child)) if CHILD.fullmatch(child) else DomId(0)
            if domid and domid not in self.records and domid not in self.adopted:
                yield domid

    def guest(self, wanted: str) -> DomainInfo:
        """As `find`, but never Dom0."""
        info = self.find(wanted)
        if info.domid == 0:
            raise ToolstackError("that would end or stop Dom0, and the machine with it; use 'xenctl stop'")
        return info

    def check_name_free(self, name: str) -> None:
        """Raises ToolstackError if a domain has the name, or is to have it."""
        if name in self.reserved:
            raise ToolstackError(
                f"domain '{name}' is on its way here from another machine; choose another name"
            )
        for info in self._named(name):
            if not info.dying:
                raise ToolstackError(
                    f"domain '{name}' exists already with id {info.domid}; destroy it or choose another name"
                )

    def gone(self, domid: DomId) -> bool:
        """Whether Xen does not know the domain any more."""
        return self._xen.getdomaininfo(domid) is None
