"""How long an unmodified Linux takes to its /init, and what another emulator needs for the same kernel.

QEMU runs it as on bare hardware, which is less work than on Xen: each page-table entry is a plain store there. Without QEMU the
yardstick is a fixed piece of native work, so that runs on different hosts can still be compared.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final

from domains.control.operations import Created, CreateWatched
from scripts.benchmarks.figure import Figure, Sizes, Unavailable
from scripts.benchmarks.machine import Machine, described

GUESTS: Final = Path(os.environ.get("XENOSCOPE_CACHE") or Path.home() / ".cache" / "xenoscope") / "guests"
UNPATCHED: Final = "noreplace-smp"
"""Linux on one vCPU rewrites each of its LOCK prefixes through an address space of its own, unless told not to."""
AT_INIT: Final = b"Run /init as init process"
QEMU: Final = "qemu-system-x86_64"
MEMORY_MIB: Final = 128
TIMEOUT: Final = 600.0
HASHED: Final = 1 << 30
KINDS: Final = {
    "linux_init": 'type = "pv"',
    "linux_init_pvh": 'type = "pvh"\nhap = 1',
    "linux_init_shadow": 'type = "pvh"\nhap = 0',
}
"""By figure, how the guest is virtualized: direct paging, nested paging, shadow paging."""
FEW: Final = 3
"""Boots that are measured; one under --quick."""


def linux_init(sizes: Sizes) -> Iterator[Figure]:
    """Seconds from the request to create the domain until the kernel starts /init, for each of KINDS."""
    if not (GUESTS / "vmlinuz").exists():
        raise Unavailable("needs scripts/fetch_guests")
    qemu = shutil.which(QEMU)
    name, reference = (f"{QEMU}, TCG, no Xen", boot_in_qemu) if qemu else ("SHA-256 of 1 GiB", hash_much)
    rounds = min(FEW, max(1, sizes.rounds // 2))
    with Machine() as machine:
        turns = [
            ({figure: boot(machine, kind) for figure, kind in KINDS.items()}, reference())
            for _ in range(rounds)
        ]
        unpatched = median(boot(machine, parameters=UNPATCHED) for _ in range(rounds))
    details = {"linux_init": {f"s with {UNPATCHED}": unpatched}}
    for figure in KINDS:
        ours = median(boots[figure] for boots, _ in turns)
        theirs = median(yardstick for _, yardstick in turns)
        ratio = median(boots[figure] / yardstick for boots, yardstick in turns)
        yield Figure(figure, ours, "s", name, theirs, ratio, details.get(figure, {}))


def boot(machine: Machine, kind: str = 'type = "pv"', parameters: str = "") -> float:
    """One boot of a domain of this kind, with more on the kernel's command line; it is destroyed afterwards."""
    text = (
        f'name = "linux-{uuid.uuid4().hex[:8]}"\n{kind}\n'
        f'kernel = "{GUESTS}/vmlinuz"\nramdisk = "{GUESTS}/initramfs.img"\n'
        f'memory = {MEMORY_MIB}\ncmdline = "console=hvc0 task=halt {parameters}"\n'
    )
    seconds, domid, _ = watch(machine, text, AT_INIT)
    machine.destroy(domid)
    return seconds


def watch(machine: Machine, text: str, until: bytes) -> tuple[float, int, bytes]:
    """Make the domain of this description, and wait until it has said that: the seconds, its id, what it said.
    RuntimeError if it ends before.
    """
    start = time.perf_counter()
    client = machine.client()
    client.post(CreateWatched(described(text)))
    domid, said = None, b""
    while until not in said:
        reply = client.receive(TIMEOUT)
        if reply is None:
            raise TimeoutError(f"Linux said nothing for {TIMEOUT:g} s after\n{said.decode(errors='replace')}")
        result = reply.result()
        if isinstance(result, bytes):
            said += result
        elif isinstance(result, Created):
            domid = result.domid
        else:
            raise RuntimeError(f"Linux ended: {result}\n{said.decode(errors='replace')}")
    seconds = time.perf_counter() - start
    assert domid is not None
    return seconds, domid, said


def boot_in_qemu(initramfs: Path = GUESTS / "initramfs.img") -> float:
    """The same kernel, initramfs and memory."""
    command = [
        *(QEMU, "-accel", "tcg", "-m", str(MEMORY_MIB), "-nographic", "-no-reboot", "-net", "none"),
        *("-kernel", str(GUESTS / "vmlinuz"), "-initrd", str(initramfs)),
        *("-append", "console=ttyS0 task=halt"),
    ]
    start = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        reached = any(AT_INIT in line for line in process.stdout)
        seconds = time.perf_counter() - start
        process.kill()
    if not reached:
        raise RuntimeError(f"{QEMU} did not boot the kernel")
    return seconds


def hash_much() -> float:
    """Seconds that this host needs to hash HASHED bytes: how fast it is at the moment."""
    block, digest = bytes(1 << 20), hashlib.sha256()
    start = time.perf_counter()
    for _ in range(HASHED >> 20):
        digest.update(block)
    return time.perf_counter() - start
