"""Domains that begin together: let go in one request, in the order of their names there, and followed until the last has ended.

What clients do in between has no part in it: on a machine that repeats itself everything from here on follows from the seed.
"""

from __future__ import annotations

from collections.abc import Sequence

from domains.dom0.toolstack.domains import Domains, Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.parts import Parts
from domains.kernel.tasks import Pause, Task
from domains.kernel.waiting import NANOSECONDS


def run_together(parts: Parts, wanted: Sequence[str], seconds: float) -> Task[bool]:
    """Let paused domains go on, and wait until all have ended, over their reboots: True. After `seconds` of the machine's time
    (0: never) those that have not are paused: False.

    Raises ToolstackError if one of them is not there, or not paused; then all stay as they are.
    """
    domains, kernel = parts.domains, parts.kernel
    records = [_paused(domains, name) for name in dict.fromkeys(wanted)]
    deadline = kernel.now() + int(seconds * NANOSECONDS) if seconds else None
    for record in records:
        parts.xen.unpausedomain(record.domid)
    while running := [record for record in map(_latest, records) if not _is_over(domains, record)]:
        if deadline is not None and kernel.now() >= deadline:
            for record in running:
                if not domains.gone(record.domid):
                    parts.xen.pausedomain(record.domid)
            return False
        signals = [domains.changed(record.domid) for record in running]
        yield Pause((*signals, *(record.restarted for record in running if record.restarting)), deadline)
    return True


def _paused(domains: Domains, name: str) -> Record:
    info = domains.guest(name)
    record = domains.records.get(info.domid)
    if record is None or not info.paused:
        raise ToolstackError(f"domain '{name}' is not paused")
    return record


def _latest(record: Record) -> Record:
    """What was made of the domain when it rebooted, if it did."""
    while record.successor is not None:
        record = record.successor
    return record


def _is_over(domains: Domains, record: Record) -> bool:
    if record.restarting:
        return False
    return domains.gone(record.domid) or (record.shutdown is not None and not record.destroying)
