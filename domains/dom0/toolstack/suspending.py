"""Asking a guest to suspend, and letting it go on.

    control/shutdown = suspend ─► the guest takes the word away ─► SCHEDOP_shutdown(SHUTDOWN_suspend) ─► it stands still
           │ it does nothing: the word is taken back                │ it never comes to that
           └────────────── a ToolstackError, and the guest goes on ─┘

Source: Xen tools/libs/light/libxl_dom_suspend.c, libxl_dom_save.c; docs/misc/xenstore-paths (control/shutdown).
"""

from __future__ import annotations

from typing import Final

from domains.control.protocol import Exit
from domains.dom0.toolstack.domains import Domains, Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.store_tree import home, read_or_none
from domains.dom0.toolstack.xenctrl import XenCtrl
from domains.dom0.xenstore.server import Xenstored
from domains.kernel.kernel import Kernel
from domains.kernel.store_calls import StoreCalls
from domains.kernel.tasks import Task
from hypervisor.public.domctl import Domctl
from hypervisor.public.errno import XenError
from hypervisor.public.sched import SHUTDOWN_suspend

SUSPEND: Final = "suspend"


class Suspending:
    """One per toolstack."""

    def __init__(self, kernel: Kernel, xen: XenCtrl, xenstored: Xenstored, domains: Domains) -> None:
        self._kernel = kernel
        self._xen = xen
        self._xenstored = xenstored
        self._domains = domains

    def suspend(self, record: Record, timeout: float) -> Task[None]:
        """Have the guest stand still. ToolstackError: it did not within so many seconds, or ended otherwise; then it goes on, if
        it is there.
        """
        name, path = record.config.name, f"{home(record.domid)}/control/shutdown"
        self._kernel.xenbus.write(path, SUSPEND)
        if not (yield from self._stands_still(record, timeout)):
            if self._take_back(path):
                raise ToolstackError(
                    f"domain '{name}' did not answer the request to suspend within {timeout:g} s; it goes on",
                    Exit.TIMED_OUT,
                )
            if not (yield from self._stands_still(record, timeout)):
                record.unwanted_suspend = True
                raise ToolstackError(
                    f"domain '{name}' has taken the request to suspend, but did not within {timeout:g} s; it goes on",
                    Exit.TIMED_OUT,
                )
        if record.destroying or record.shutdown != SHUTDOWN_suspend:
            raise ToolstackError(f"domain '{name}' ended instead of suspending")

    def _stands_still(self, record: Record, timeout: float) -> Task[bool]:
        def over() -> bool:
            return record.shutdown is not None or record.destroying or self._domains.gone(record.domid)

        return self._kernel.until(over, self._domains.changed(record.domid), timeout=timeout)

    def _take_back(self, path: str) -> bool:
        """Whether the request was still there, as nobody had taken it."""
        taken = [False]

        def take(nodes: StoreCalls) -> None:
            taken[0] = read_or_none(nodes, path) == SUSPEND
            if taken[0]:
                nodes.write(path, "")

        self._kernel.xenbus.in_transaction(take)
        return taken[0]

    def resume(self, record: Record) -> None:
        """Let a guest that is suspended go on where it is: its suspend was cancelled. XenError: it has ended."""
        record.shutdown = None
        self._xenstored.resume(record.domid)
        self._xen.domctl(Domctl.XEN_DOMCTL_resumedomain, record.domid)

    def resume_if_there(self, record: Record) -> None:
        """The same of one that may have ended meanwhile."""
        if record.destroying or record.shutdown != SHUTDOWN_suspend:
            return
        try:
            self.resume(record)
        except XenError:
            print(f"toolstack: domain {record.domid} ended while it was saved")
