"""What the toolstack works with: Dom0's services, wired together once."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from random import Random

from domains.dom0.console.consoled import Consoled
from domains.dom0.toolstack.backends import Backends
from domains.dom0.toolstack.core_dump.dump import CoreDumps
from domains.dom0.toolstack.domains import Domains
from domains.dom0.toolstack.hotplug import Hotplug
from domains.dom0.toolstack.operations import Operations
from domains.dom0.toolstack.scheduling import Scheduling
from domains.dom0.toolstack.suspending import Suspending
from domains.dom0.toolstack.xenctrl import XenCtrl
from domains.dom0.xenstore.server import Xenstored
from domains.kernel.kernel import Kernel


@dataclass(frozen=True, slots=True)
class Parts:
    """One of each per Dom0."""

    kernel: Kernel
    xen: XenCtrl
    xenstored: Xenstored
    consoled: Consoled
    domains: Domains
    operations: Operations
    backends: Backends
    hotplug: Hotplug
    scheduling: Scheduling
    cores: CoreDumps
    suspending: Suspending
    chance: Random
    """Where what a description leaves open comes from: ids and addresses."""
    unpacker: socket.socket
    """The process that unpacks kernels (builder/unpacker.py)."""
    carrier: socket.socket
    """The process that has the network's end of migrations (domains/carrier)."""

    @classmethod
    def made(
        cls,
        kernel: Kernel,
        xenstored: Xenstored,
        chance: Random,
        unpacker: socket.socket,
        carrier: socket.socket,
        dumps: Path,
    ) -> Parts:
        """The toolstack's own parts, around Dom0's kernel and its store; `dumps`: the folder of core dumps."""
        xen, operations = XenCtrl(kernel), Operations(kernel)
        domains = Domains(xen, kernel.xenbus)
        backends = Backends(kernel.xenbus, domains, operations)
        return cls(
            kernel,
            xen,
            xenstored,
            Consoled(kernel),
            domains,
            operations,
            backends,
            Hotplug(kernel.xenbus, domains, operations, backends, chance),
            Scheduling(kernel, xen, domains, chance),
            CoreDumps(kernel, xen, dumps),
            Suspending(kernel, xen, xenstored, domains),
            chance,
            unpacker,
            carrier,
        )
