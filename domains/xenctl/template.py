"""What a machine's supervisor runs, imported in its process alone: the parts put together, warm for every
fork.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from domains.cpu.process import load_engine, run_domain
from domains.dom0.toolstack.builder.unpacker import serve
from domains.kernel.image import make_image
from hypervisor.core import run_core
from hypervisor.machine.config import MachineConfig
from hypervisor.supervisor import Entries, Service, Supervisor
from hypervisor.wire import descriptors

DOM0: Final = "domains.dom0.dom0:Dom0"
WARM: Final = ("domains.kernel.run", "domains.dom0.dom0")
"""Modules that forked processes need at once; imported here, their memory is shared."""
FRONT_ENDS: Final = ("drivers.block.front", "drivers.net.ip.interface")
"""What Python guests use most often. The first domain waits for it; the machine's start does not."""


def prepare(domid: int, mailbox: int) -> None:
    """Load what the process of domain `domid` needs, in the supervisor."""
    load_engine(mailbox, FRONT_ENDS if domid else ())


def run_machine(
    name: str, folder: Path, memory_frames: int, cpus: int, uplinks: Sequence[str], lock: int
) -> None:
    """Run a machine to its end; its folder is removed. `lock` holds the folder's lock."""
    for module in WARM:
        importlib.import_module(module)
    dom0_end, unpacker_end = descriptors.pair()
    config = MachineConfig(
        name=name,
        folder=folder,
        memory_frames=memory_frames,
        nr_cpus=cpus,
        dom0_kernel=make_image(DOM0),
        dom0_options=(f"unpacker={dom0_end.fileno()}", *(f"uplink={uplink}" for uplink in uplinks)),
        dom0_fds=(dom0_end.fileno(),),
        lock_fd=lock,
    )
    services = (Service("xeno-unpacker", unpacker_end, serve),)
    entries = Entries(core=run_core, domain=run_domain, services=services, prepare=prepare)
    Supervisor(config, entries).run()
