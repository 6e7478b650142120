"""Schedulers by name and by number."""

from __future__ import annotations

from typing import Final

from domains.dom0.toolstack.errors import ToolstackError
from hypervisor.public.xenoscope_sched import SCHEDULER_NAMES

NAMES: Final = {int(sched_id): name for name, sched_id in SCHEDULER_NAMES.items()}


def sched_id_of(name: str) -> int:
    """XEN_SCHEDULER_… of a name. Raises ToolstackError."""
    sched_id = SCHEDULER_NAMES.get(name)
    if sched_id is None:
        raise ToolstackError(f"there is no scheduler '{name}'; there are {', '.join(SCHEDULER_NAMES)}")
    return sched_id


def scheduler_name(sched_id: int) -> str:
    """The name of a XEN_SCHEDULER_…"""
    return NAMES.get(sched_id, "unknown")
