"""The first act: a machine, two domains at work in it, and what they leave, which is nothing."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Final

from domains.control.operations import List
from scripts.demonstration.stage import REPOSITORY, Failed, Machine, await_true, require, say

GUESTS: Final = REPOSITORY / "domains" / "guests"
IMAGE_SECTORS: Final = 1024
SECTOR: Final = 512


def two_at_work(machine: Machine, folder: Path) -> None:
    """Raises Failed."""
    two_domains(machine, folder)
    work(machine, folder)
    say("4  Both are destroyed: processes, memory, event channels, grants and xenstore nodes go with them.")
    for name in ("demandpaging", "blockcheck"):
        machine.show("destroy", name)


def make_disk(folder: Path) -> Path:
    """A disk image of zeros."""
    image = folder / "disk.img"
    image.write_bytes(bytes(IMAGE_SECTORS * SECTOR))
    return image


def holds_pattern(image: Path) -> bool:
    """Whether each sector begins with its own number, as blockcheck writes it."""
    data = image.read_bytes()
    numbers = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), SECTOR)]
    return numbers == list(range(IMAGE_SECTORS))


def two_domains(machine: Machine, folder: Path) -> None:
    """Makes the two domains, paused."""
    say("2  Two unprivileged domains are made from descriptions as xl.cfg(5) has them, still paused.")
    image = make_disk(folder)
    print(f"   {image.name}: {IMAGE_SECTORS} sectors of zeros, crc32 {zlib.crc32(image.read_bytes()):08x}")
    for name in ("demandpaging", "blockcheck"):
        description = folder / f"{name}.cfg"
        text = (GUESTS / description.name).read_text()
        description.write_text(text.replace("target=disk.img", f"target={image}"))
        machine.show("create", "--paused", description, "on_poweroff=preserve")
    print("   Each is a process of its own, with a memfd of its own for its frames:")
    machine.show("list")


def work(machine: Machine, folder: Path) -> None:
    """Lets them run, and checks what they say and leave on the disk."""
    say("3  They run. One pages on demand: each fault is answered by hypercalls that Xen validates.")
    print("   The other reads and writes its disk through grants, an event channel and Dom0's back end.")
    watch(machine, "demandpaging", "all contents right")
    watch(machine, "blockcheck", "all sectors right")
    require(holds_pattern(folder / "disk.img"), "the image does not hold what blockcheck wrote")
    print("   The image on the host holds what the guest wrote.")


def watch(machine: Machine, name: str, promise: str) -> None:
    """Let a domain run, show what it prints until it says `promise`, and await its end. Raises Failed."""
    console = machine.follow(name)
    try:
        machine.show("unpause", name)
        assert console.stdout is not None
        for line in console.stdout:
            print(f"     {name}: {line.rstrip()}", flush=True)
            if promise in line:
                break
        else:
            raise Failed(f"{name} ended before it said '{promise}'")
        await_true(lambda: machine.ask(List(name))[0].shutdown == "poweroff", f"the end of {name}")
    finally:
        console.kill()
        console.communicate()
