"""What a machine's supervisor runs, imported in its process alone: the parts put together, warm for every fork.

To load all that takes longer than all that Dom0 does to come up, so nobody waits for what another process can load beside it:

    supervisor   what all share ──┬── what Dom0 and guests share ──┬── what the first guest needs
    core                          └── its own ── builds Dom0       │
    Dom0                                                           └── comes up
"""

from __future__ import annotations

import gc
import importlib
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from domains.carrier.door import Door
from domains.carrier.process import serve as carry
from domains.control.description import PYTHON_PREFIX, DomainConfig, GuestType
from domains.cpu.process import ENGINES, load_engine, run_domain
from domains.kernel.image import make_image
from hypervisor.machine.config import MachineConfig
from hypervisor.supervisor import Entries, Service, Supervisor
from hypervisor.wire import descriptors
from hypervisor.wire.mailbox import Engine

DOM0: Final = "domains.dom0.dom0:Dom0"
WARM: Final = ("domains.kernel.run", "domains.dom0.dom0")
"""Modules that forked processes need at once; imported here, their memory is shared."""
FRONT_ENDS: Final = ("drivers.block.front", "drivers.net.ip.interface")
"""What Python guests use most often. The first domain waits for it; the machine's start does not."""


def prepare(domid: int, mailbox: int) -> None:
    """Load what the process of domain `domid` needs, in the supervisor."""
    load_engine(mailbox, FRONT_ENDS if domid else ())


def load(modules: Iterable[str]) -> None:
    """Load modules for all whom this process forks from now on. They are no garbage, which it takes time to find out."""
    gc.disable()
    try:
        for module in modules:
            importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()


def load_for(guest: DomainConfig | None) -> None:
    """Load what that domain's process will need. What cannot be loaded is for that process to find."""
    with suppress(ImportError):
        load(modules_of(guest))


def modules_of(guest: DomainConfig | None) -> Sequence[str]:
    """What the process of such a domain will need, as far as its description tells; what it needs besides is loaded then."""
    if guest is None:
        return ()
    if guest.kernel.startswith(PYTHON_PREFIX):
        return FRONT_ENDS
    return (ENGINES[Engine.X86_64 if guest.type is GuestType.PV else Engine.X86_64_NESTED],)


def run_core(config: MachineConfig, supervisor: socket.socket, supervisor_pidfd: int) -> None:
    """The core process's body. It loads its part of the hypervisor itself, for no other process has use for that."""
    name, function = (
        ("hypervisor.core", "run_core")
        if config.seed is None
        else ("hypervisor.repeating.core", "run_repeating_core")
    )
    load([name])
    getattr(importlib.import_module(name), function)(config, supervisor, supervisor_pidfd)


def unpack(pair: socket.socket) -> None:
    """The unpacker's body."""
    from domains.dom0.toolstack.builder.unpacker import serve

    serve(pair)


def run_machine(
    config: MachineConfig,
    uplinks: Sequence[str],
    guest: DomainConfig | None = None,
    door: Door | None = None,
) -> None:
    """Run a machine to its end; its folder is removed. Dom0's part of `config` is filled in here. With a seed it repeats.

    `guest`: the domain that it is started for; `door`: where other machines may connect.
    """
    dom0_end, unpacker_end = descriptors.pair()
    carried, carrier_end = descriptors.pair()
    config = config._replace(
        dom0_kernel=make_image(DOM0),
        dom0_options=(
            f"unpacker={dom0_end.fileno()}",
            f"carrier={carried.fileno()}",
            *(f"uplink={uplink}" for uplink in uplinks),
            *(() if door is None else (f"listens={door.place}",)),
        ),
        dom0_fds=(dom0_end.fileno(), carried.fileno()),
    )
    entries = Entries(
        core=run_core,
        domain=run_domain,
        services=(
            Service("xeno-unpacker", unpacker_end, unpack),
            Service(
                "xeno-carrier",
                carrier_end,
                lambda pair: carry(pair, config.name, door),
                () if door is None else (door.fd,),
            ),
        ),
        prepare=prepare,
        warm=lambda: load(WARM),
        ahead=lambda: load_for(guest),
    )
    Supervisor(config, entries).run()
