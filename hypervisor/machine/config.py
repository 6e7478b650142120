"""What a machine is started with."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

MACHINE_OVERHEAD: Final = 64
"""MiB of a machine beside its guests': Dom0, Xen's own tables, and what each domain takes besides its memory."""


class MachineConfig(NamedTuple):
    """What a machine is started with. `memory_frames`: quota of all domains together, Dom0 included."""

    name: str
    folder: Path
    lock_fd: int = -1
    """A descriptor that holds the lock of the machine's folder. The core keeps it too, so that the lock outlives a
    supervisor that is killed until the folder is gone."""
    memory_frames: int = (4 << 30) >> 12
    dom0_frames: int = (16 << 20) >> 12
    nr_cpus: int = 2
    sched: str = "credit2"
    """The scheduler of CPU pool 0 (hypervisor/sched/policies.py)."""
    slice_ns: int | None = None
    """How long its slices are, ns; None: as is usual with it."""
    seed: int | None = None
    """What the machine's random choices (uuids, MAC addresses) follow from; None: the host's randomness."""
    dom0_kernel: bytes = b""
    """The image of Dom0's kernel (domains.kernel.image.make_image)."""
    dom0_options: tuple[str, ...] = ()
    """What else is on Dom0's command line."""
    dom0_fds: tuple[int, ...] = ()
    """Descriptors of the supervisor that Dom0's process inherits."""
