"""How much memory a running domain has: xl's mem-set and mem-max.

    memory/target       what the guest's balloon driver is to come to, KiB: it gives frames back to Xen, or takes more
    memory/static-max   what the target may be at most
    max_mem             what Xen lets the domain take: the target and MAXMEM_CONSTANT

Source: libxl_set_memory_target, libxl_domain_setmaxmem (tools/libs/light/libxl_mem.c). Nobody waits for the guest. Unlike libxl
this toolstack refuses a target for which there are not enough free frames now: the guest would wait for them for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from domains.control import memory_operations as ops
from domains.control.description import DomainConfig
from domains.dom0.toolstack.domains import Domains
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.store_tree import home, read_or_none
from domains.dom0.toolstack.xenctrl import MAXMEM_CONSTANT, DomainInfo, XenCtrl
from domains.kernel.store_calls import StoreCalls
from domains.kernel.xenbus import Xenbus
from hypervisor.public.types import PAGE_SIZE, DomId

KIB_PER_PAGE: Final = PAGE_SIZE // 1024


class Ballooning:
    """One per toolstack."""

    def __init__(self, xen: XenCtrl, xenbus: Xenbus, domains: Domains) -> None:
        self._xen = xen
        self._xenbus = xenbus
        self._domains = domains

    def set_target(self, wanted: ops.MemSet) -> ops.MemoryLimits:
        """Tell a domain how much memory to have. Raises ToolstackError, and then nothing has changed."""
        info = self._guest(wanted.domain)
        static_max, kib = self._node(info, "static-max"), wanted.kib
        if kib > static_max:
            raise ToolstackError(
                f"cannot set domid {info.domid} dynamic max memory to : {kib}k: memory_dynamic_max must be less than or"
                f" equal to memory_static_max ({static_max} KiB); raise that by 'xenctl mem-max' first"
            )
        more, free = kib - info.tot_pages * KIB_PER_PAGE, self._xen.physinfo().free_pages * KIB_PER_PAGE
        if more > free:
            raise ToolstackError(
                f"cannot set domid {info.domid} dynamic max memory to : {kib}k: that is {more} KiB more than it has, and"
                f" {free} KiB of the machine are free; take from another domain first"
            )
        self._remember(info.domid, lambda config: config.replaced(memory=mib(kib)))
        self._xen.max_mem(info.domid, kib + MAXMEM_CONSTANT)
        self._xenbus.in_transaction(lambda nodes: self._write_target(nodes, info.domid, kib))
        return ops.MemoryLimits(info.domid, kib, static_max, info.tot_pages * KIB_PER_PAGE)

    def _write_target(self, nodes: StoreCalls, domid: DomId, kib: int) -> None:
        nodes.write(f"{home(domid)}/memory/target", str(kib))
        if (vm := read_or_none(nodes, f"{home(domid)}/vm")) is not None:
            nodes.write(f"{vm}/memory", str(kib >> 10))

    def set_max(self, wanted: ops.MemMax) -> ops.MemoryLimits:
        """Say how much memory a domain may be told to have. Raises ToolstackError, and then nothing has changed."""
        info = self._guest(wanted.domain)
        target, kib = self._node(info, "target"), wanted.kib
        if kib < target:
            raise ToolstackError(
                f"cannot set domid {info.domid} static max memory to : {kib}k: memory_static_max must be greater than or"
                f" equal to memory_dynamic_max ({target} KiB); lower that by 'xenctl mem-set' first"
            )
        self._remember(info.domid, lambda config: config.replaced(maxmem=mib(kib)))
        self._xen.max_mem(info.domid, kib + MAXMEM_CONSTANT)
        self._xenbus.write(f"{home(info.domid)}/memory/static-max", str(kib))
        return ops.MemoryLimits(info.domid, target, kib, info.tot_pages * KIB_PER_PAGE)

    def _guest(self, wanted: str) -> DomainInfo:
        info = self._domains.find(wanted)
        if info.domid == 0:
            raise ToolstackError(
                "Dom0 has the memory that it was made with; its machine's is 'start --memory'"
            )
        if info.dying:
            raise ToolstackError(f"domain '{wanted}' is being taken apart")
        return info

    def _node(self, info: DomainInfo, name: str) -> int:
        """A node of its memory/, which the toolstack writes. KiB."""
        path = f"{home(info.domid)}/memory/{name}"
        text = read_or_none(self._xenbus, path) or ""
        if not (text.isascii() and text.isdecimal() and len(text) < 20):
            raise ToolstackError(
                f"Cannot get memory info from {path}: domain {info.domid} is not made yet, or is ending"
            )
        return int(text)

    def _remember(self, domid: DomId, change: Callable[[DomainConfig], DomainConfig]) -> None:
        """The domain has it so after a reboot, too. ToolstackError: such a domain could not be made."""
        record = self._domains.records.get(domid)
        if record is None:
            return
        try:
            record.config = change(record.config)
        except ValueError as error:
            raise ToolstackError(str(error)) from None

    def perform(self, wanted: Any) -> Any:
        """What the operation answers. Raises ToolstackError."""
        return self.HANDLERS[type(wanted)](self, wanted)

    HANDLERS: Final[dict[type[Any], Callable[[Ballooning, Any], Any]]] = {
        ops.MemSet: set_target,
        ops.MemMax: set_max,
    }
    """What performs each operation."""


def mib(kib: int) -> int:
    """Whole MiB that hold so many KiB."""
    return -(-kib >> 10)
