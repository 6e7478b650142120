"""What is done to a domain between its making and its end: another name, another description for its next life, a key of its
magic SysRq, a core dump.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from domains.control import domain_operations as ops
from domains.dom0.toolstack import store_tree
from domains.dom0.toolstack.domains import Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.parts import Parts
from domains.dom0.toolstack.traffic import Devices
from domains.kernel.tasks import Task
from hypervisor.public.domctl import (
    XEN_DOMCTL_SENDTRIGGER_NMI,
    Domctl,
    xen_domctl_sendtrigger,
    xen_domctl_u,
)
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import DomId

INSTEAD_OF_TRIGGERS: Final = {
    "power": "use 'xenctl shutdown'",
    "sleep": "use 'xenctl pause'",
    "reset": "use 'xenctl reboot', or 'xenctl destroy' and 'xenctl create'",
    "init": "use 'xenctl destroy' and 'xenctl create'",
    "s3resume": "use 'xenctl unpause'",
}
"""libxl's triggers that only HVM domains have, or none, and what there is here."""


class Upkeep:
    """One per toolstack."""

    def __init__(self, parts: Parts, devices: Devices) -> None:
        self._parts = parts
        self._devices = devices
        self._domains = parts.domains
        self._xenbus = parts.kernel.xenbus

    def perform(self, wanted: Any) -> Any:
        """What the operation answers, or a task that will. Raises ToolstackError."""
        return self.HANDLERS[type(wanted)](self, wanted)

    def _guest(self, wanted: str, what: str) -> DomId:
        """The id of a domain that is not Dom0. Raises ToolstackError."""
        domid = self._domains.find(wanted).domid
        if domid == 0:
            raise ToolstackError(f"Dom0 {what}")
        return domid

    def _rename(self, wanted: ops.Rename) -> ops.Renamed:
        """As libxl_domain_rename: a name in use is refused, unless it is the domain's own."""
        domid = self._guest(wanted.domain, "keeps its name")
        before = self._domains.name_of(domid)
        if before != wanted.name:
            self._domains.check_name_free(wanted.name)
            self._xenbus.in_transaction(lambda nodes: store_tree.rename(nodes, domid, wanted.name))
        record = self._domains.records.get(domid)
        if record is not None:
            record.config = record.config.replaced(name=wanted.name)
        return ops.Renamed(before, wanted.name)

    def _config_update(self, wanted: ops.ConfigUpdate) -> None:
        domid = self._guest(wanted.domain, "is not made by a description")
        self._made_here(domid).updated = self._parts.backends.resolved(wanted.config)

    def _made_here(self, domid: DomId) -> Record:
        record = self._domains.records.get(domid)
        if record is None:
            raise ToolstackError(f"domain {domid} was not made by this toolstack, which cannot make it again")
        return record

    def _sysrq(self, wanted: ops.Sysrq) -> None:
        """Source: libxl_send_sysrq. Linux watches the node, and empties it when it has read the key."""
        domid = self._guest(wanted.domain, "is no Linux here; 'xenctl debug-keys' asks the hypervisor")
        self._xenbus.write(f"{store_tree.home(domid)}/control/sysrq", wanted.key)

    def _trigger(self, wanted: ops.Trigger) -> None:
        """As libxl_send_trigger; what Xen has for HVM domains with ACPI alone is refused with what there is instead."""
        domid = self._guest(wanted.domain, "takes no triggers")
        if wanted.trigger != "nmi":
            instead = INSTEAD_OF_TRIGGERS.get(wanted.trigger, "name nmi")
            raise ToolstackError(f"domain '{wanted.domain}' takes no trigger '{wanted.trigger}': {instead}")
        try:
            trigger = xen_domctl_sendtrigger(trigger=int(XEN_DOMCTL_SENDTRIGGER_NMI), vcpu=wanted.vcpu)
            self._parts.xen.domctl(Domctl.XEN_DOMCTL_sendtrigger, domid, xen_domctl_u(sendtrigger=trigger))
        except XenError as error:
            if error.errno is Errno.ESRCH:
                raise ToolstackError(f"domain '{wanted.domain}' has no vCPU {wanted.vcpu}") from None
            raise ToolstackError(
                f"domain '{wanted.domain}' takes no NMI: PV guests of machine code do; use 'xenctl sysrq'"
            ) from None

    def _dump_core(self, wanted: ops.DumpCore) -> Task[ops.Dumped]:
        domid = self._guest(wanted.domain, "has no core of its own; 'xenctl debug-keys' asks the hypervisor")
        return ops.Dumped((yield from self._parts.cores.dump(domid, wanted.path)))

    HANDLERS: Final[dict[type[Any], Callable[[Upkeep, Any], Any]]] = {
        ops.Rename: _rename,
        ops.ConfigUpdate: _config_update,
        ops.Sysrq: _sysrq,
        ops.Trigger: _trigger,
        ops.DumpCore: _dump_core,
        ops.Traffic: lambda self, _wanted: self._devices.traffic(),
    }
    """What performs each operation."""
