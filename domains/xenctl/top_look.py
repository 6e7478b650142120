"""What `xenctl top` shows: a look at the machine and its domains, and xentop's table of it."""

from __future__ import annotations

import time
from typing import Final

from domains.control.client import ControlClient
from domains.control.domain_operations import DomainTraffic, Traffic
from domains.control.operations import Info, List, Listed, MachineInfo
from domains.xenctl.output import printable

LEAST_DELAY: Final = 0.1
KIB_PER_FRAME: Final = 4
NO_LIMIT: Final = 1 << 40
"""KiB of a domain whose memory has no limit: Dom0's."""
SSID: Final = 0
LETTERS: Final = "dsbcpr"
"""xentop's order of the letters of `list`."""
NAME_WIDTH: Final = 10


class Look:
    """What there was at a time: `used`: each domain's row by the names of columns, in the order of ids; `head`: lines about
    the machine.
    """

    def __init__(self, client: ControlClient, before: Look | None) -> None:
        self.at = time.monotonic()
        info, domains = client.call(Info()), client.call(List(brief=True))
        traffic = {one.domid: one for one in client.call(Traffic())}
        self.cpu_time = {one.uuid: one.cpu_time for one in domains}
        self.used = [self._row(one, traffic.get(one.domid), info, before) for one in domains]
        self.head = head_of(info, domains)

    def _row(
        self, one: Listed, traffic: DomainTraffic | None, info: MachineInfo, before: Look | None
    ) -> dict[str, object]:
        total = info.total_frames * KIB_PER_FRAME
        limited = one.max_memory_kib < NO_LIMIT
        spent = one.cpu_time - before.cpu_time.get(one.uuid, one.cpu_time) if before is not None else 0.0
        elapsed = self.at - before.at if before is not None else 1.0
        did = traffic or DomainTraffic(one.domid, *[0] * (len(DomainTraffic.fields) - 1))
        return {
            "NAME": printable(one.name or "(null)"),
            "STATE": "".join(letter if letter in one.state else "-" for letter in LETTERS),
            "CPU(sec)": int(one.cpu_time),
            "CPU(%)": round(max(spent, 0.0) / max(elapsed, LEAST_DELAY) * 100, 1),
            "MEM(k)": one.memory_kib,
            "MEM(%)": round(one.memory_kib / total * 100, 1),
            "MAXMEM(k)": one.max_memory_kib if limited else "no limit",
            "MAXMEM(%)": round(one.max_memory_kib / total * 100, 1) if limited else "n/a",
            "VCPUS": one.vcpus,
            "NETS": did.nets,
            "NETTX(k)": did.sent_bytes // 1024,
            "NETRX(k)": did.received_bytes // 1024,
            "VBDS": did.vbds,
            "VBD_OO": 0,
            "VBD_RD": did.rd_req,
            "VBD_WR": did.wr_req,
            "VBD_RSECT": did.rd_sect,
            "VBD_WSECT": did.wr_sect,
            "SSID": SSID,
        }


WIDTHS: Final = {
    "NAME": NAME_WIDTH, "STATE": 6, "CPU(sec)": 10, "CPU(%)": 6, "MEM(k)": 10, "MEM(%)": 6, "MAXMEM(k)": 10,
    "MAXMEM(%)": 9, "VCPUS": 5, "NETS": 4, "NETTX(k)": 8, "NETRX(k)": 8, "VBDS": 4, "VBD_OO": 8, "VBD_RD": 8,
    "VBD_WR": 8, "VBD_RSECT": 10, "VBD_WSECT": 10, "SSID": 4,
}  # fmt: skip
"""xentop's columns (Xen tools/xentop/xentop.c, `fields`)."""


def lines_of(rows: list[dict[str, object]], *, full_name: bool) -> list[str]:
    """A header and a line for each row, in xentop's columns; those that need it are wider."""
    widths = dict(WIDTHS)
    for row in rows:
        for column, cell in row.items():
            if column != "NAME" or full_name:
                widths[column] = max(widths[column], len(str(cell)))
    header = " ".join(column.rjust(width) for column, width in widths.items())
    return [header, *(" ".join(str(row[c])[:w].rjust(w) for c, w in widths.items()) for row in rows)]


def head_of(info: MachineInfo, domains: tuple[Listed, ...]) -> list[str]:
    """xentop's lines about the machine."""
    names = {"r": "running", "b": "blocked", "p": "paused", "c": "crashed", "d": "dying", "s": "shutdown"}
    states = ", ".join(
        f"{sum(letter in one.state for one in domains)} {word}" for letter, word in names.items()
    )
    total, free = info.total_frames * KIB_PER_FRAME, info.free_frames * KIB_PER_FRAME
    return [
        f"{printable(info.machine)} - {time.strftime('%H:%M:%S')}",
        f"{len(domains)} domains: {states}",
        f"Mem: {total}k total, {total - free}k used, {free}k free    CPUs: {info.nr_cpus}",
    ]
