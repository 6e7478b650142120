"""What scripts/demo runs: a machine's whole life, told to somebody who sees it for the first time.

Everything is done through xenctl, as a user would. Every figure that is shown is asked for, none is assumed; the exit
code is 0 only if both guests said that their work was right and the census at the end equals the one before them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from domains.xenctl.folder import folder_of, supervisor_pid
from domains.xenctl.machine import connect
from hypervisor.wire.control_protocol import ControlError, Op

REPOSITORY: Final = Path(__file__).resolve().parent.parent
GUESTS: Final = REPOSITORY / "domains" / "guests"
XENCTL: Final = Path(sys.executable).with_name("xenctl")
MEMORY_MIB: Final = 256
IMAGE_SECTORS: Final = 1024
SECTOR: Final = 512
OF_A_GUEST: Final = re.compile(r"^/local/domain/[1-9]|^/local/domain/0/backend/\w+/|^/vm/|^/libxl/")
PATIENCE: Final = 30.0
"""Seconds after which anything that did not happen is a failure."""

POLL: Final = 0.05
"""Seconds between two looks."""


class Failed(Exception):
    """The demonstration did not show what it was to show."""


@dataclass(frozen=True)
class Census:
    """What there is in a machine. `event_channels`: ports that lead from one domain to another, or are offered to one;
    `grants`: active entries and mappings; `xenstore_nodes`: those of guests."""

    domains: int
    frames_in_use: int
    event_channels: int
    grants: int
    processes: int
    xenstore_nodes: int


class Machine:
    """A machine of this demonstration's own."""

    def __init__(self) -> None:
        self.name = f"demo-{os.getpid()}"
        self.environment = {**os.environ, "XENCTL_MACHINE": self.name}

    def show(self, *words: str | Path) -> None:
        """One command, as it would be typed, and what it prints. Raises Failed."""
        typed = " ".join(word.name if isinstance(word, Path) else word for word in words)
        print(f"   $ xenctl {typed}", flush=True)
        done = subprocess.run(
            [XENCTL, *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=self.environment,
            check=False,
        )
        if done.returncode:
            raise Failed(f"xenctl {typed}: {done.stderr.strip()}")
        for line in done.stdout.splitlines():
            print(f"     {line}")

    def ask(self, op: Op, **arguments: Any) -> Any:
        """What xenctl would ask Dom0's toolstack, unseen. Raises ControlError."""
        with connect(self.name) as client:
            return client.call(op, **arguments)

    @property
    def supervisor(self) -> int:
        """The supervisor's process id. Raises Failed."""
        if (pid := supervisor_pid(folder_of(self.name))) is None:
            raise Failed("the machine does not run")
        return pid

    def follow(self, domain: str) -> subprocess.Popen[str]:
        """A domain's console, from its first byte to the domain's end."""
        return subprocess.Popen(
            [XENCTL, "console", domain],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=self.environment,
        )

    def census(self) -> Census:
        """Frames by sysctl, ports and grants by Xen's debug keys, processes by the host."""
        info = self.ask(Op.info)
        self.ask(Op.dmesg, clear=True)
        self.ask(Op.debug_keys, keys="eg")
        log = self.ask(Op.dmesg, clear=True).decode()
        grants = re.findall(r"domain \d+: (\d+) active entries, (\d+) maps", log)
        reported = log.count("Event channel information")
        require(
            reported == len(grants) == info["domains"], "not every domain's ports and grants are reported"
        )
        nodes = [path for path, *_ in self.ask(Op.xenstore_ls, path="/")]
        return Census(
            domains=info["domains"],
            frames_in_use=info["total_frames"] - info["free_frames"],
            event_channels=len(re.findall(r"s=(?:UNBOUND|INTERDOMAIN) ", log)),
            grants=sum(int(count) for counts in grants for count in counts),
            processes=len(processes_of(self.supervisor)),
            xenstore_nodes=sum(OF_A_GUEST.search(path) is not None for path in nodes),
        )


def processes_of(supervisor: int) -> dict[int, str]:
    """The supervisor and its children: process id → name."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, name, state, parent = re.match(r"(\d+) \((.*)\) (\S) (\d+)", stat.read_text()).groups()  # type: ignore[union-attr]
        except OSError:
            continue
        if state != "Z" and supervisor in (int(pid), int(parent)):
            found[int(pid)] = name
    return found


def await_true(condition: Callable[[], Any], what: str) -> Any:
    """Look until `condition` gives something true, and return it. Raises Failed."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {PATIENCE:g} s")
        time.sleep(POLL)
    return found


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Failed(what)


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


def demonstrate(machine: Machine, folder: Path) -> None:
    """The whole story. Raises Failed."""
    say("1  A machine starts: a supervisor, the hypervisor core, and Dom0 in a process of its own.")
    machine.show("start", "--memory", str(MEMORY_MIB))
    supervisor = machine.supervisor
    for pid, name in sorted(processes_of(supervisor).items()):
        print(f"     process {pid}: {name}")
    before = machine.census()
    two_domains(machine, folder)
    work(machine, folder)
    say("4  Both are destroyed: processes, memory, event channels, grants and xenstore nodes go with them.")
    for name in ("demandpaging", "blockcheck"):
        machine.show("destroy", name)
    take_census(machine, before)
    say("6  The machine stops.")
    machine.show("stop")
    require(not processes_of(supervisor), "processes of the machine are left")
    require(not folder_of(machine.name).exists(), "the machine's folder is left")


def two_domains(machine: Machine, folder: Path) -> None:
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
        await_true(
            lambda: machine.ask(Op.list_, domain=name)[0]["shutdown"] == "poweroff", f"the end of {name}"
        )
    finally:
        console.kill()
        console.communicate()


def take_census(machine: Machine, before: Census) -> None:
    say("5  The census: what is there now, compared with the machine before it had any guest.")
    deadline = time.monotonic() + PATIENCE
    while (now := machine.census()) != before and time.monotonic() < deadline:
        time.sleep(POLL)
    print(f"     {'':<16}{'before':>8}{'now':>8}{'left over':>12}")
    for (what, then), count in zip(asdict(before).items(), asdict(now).values(), strict=True):
        print(f"     {what.replace('_', ' '):<16}{then:>8}{count:>8}{count - then:>12}")
    if now != before:
        machine.ask(Op.debug_keys, keys="eqg")
        print(machine.ask(Op.dmesg).decode())
    require(now == before, "something of the guests is left over")


def main() -> int:
    print("Xenoscope: a Xen machine out of ordinary processes,", f"run by uid {os.getuid()}.", end=" ")
    print("No root, no KVM, no kernel module.")
    began = time.monotonic()
    machine = Machine()
    with tempfile.TemporaryDirectory(prefix="xenoscope-demo-") as folder:
        try:
            demonstrate(machine, Path(folder))
        except (Failed, ControlError, subprocess.TimeoutExpired, KeyboardInterrupt) as error:
            print(f"\ndemo: FAILED: {error or type(error).__name__}", file=sys.stderr)
            subprocess.run([XENCTL, "stop"], env=machine.environment, capture_output=True, check=False)
            return 1
    say(
        f"Done in {time.monotonic() - began:.1f} s; nothing is left. Next: README.md, docs/writing-a-guest.md."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
