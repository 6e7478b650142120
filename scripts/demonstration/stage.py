"""What both acts of the demonstration need: a machine of its own, its census, and a voice."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from domains.control.arguments import Arguments
from domains.control.operations import Console, DebugKeys, Dmesg, Info, XenstoreLs
from domains.xenctl.folder import folder_of, supervisor_pid
from domains.xenctl.machine import connect

REPOSITORY: Final = Path(__file__).resolve().parent.parent.parent
XENCTL: Final = Path(sys.executable).with_name("xenctl")
OF_A_GUEST: Final = re.compile(r"^/local/domain/[1-9]|^/local/domain/0/backend/\w+/|^/vm/|^/libxl/")
PATIENCE: Final = 30.0
"""Seconds after which anything that did not happen is a failure."""

QUIET: Final = 0.3
"""Seconds of silence after which a console has been read to its end."""

POLL: Final = 0.05
"""Seconds between two looks."""


R = TypeVar("R")


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
        print(f"   $ xenctl {typed(words)}", flush=True)
        done = subprocess.run(
            [XENCTL, *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=self.environment,
            check=False,
        )
        if done.returncode:
            raise Failed(f"xenctl {typed(words)}: {done.stderr.strip()}")
        for line in done.stdout.splitlines():
            print(f"     {line}")

    def show_progress(self, *words: str | Path) -> None:
        """A command that says by itself how far it is: on a terminal as it likes, else line by line. Raises Failed."""
        print(f"   $ xenctl {typed(words)}", flush=True)
        command = subprocess.Popen(
            [XENCTL, *words],
            stderr=None if sys.stderr.isatty() else subprocess.PIPE,
            text=True,
            env=self.environment,
        )
        for line in command.stderr or ():
            print(f"     {line}", end="", flush=True)
        command.communicate()
        require(command.returncode == 0, f"xenctl {words[0]} has failed")

    def console_of(self, domain: str, enough: Callable[[str], bool]) -> str:
        """What a domain has said, until that is `enough`, or all that it has."""
        said = ""
        with connect(self.name) as client:
            request = client.post(Console(domain))
            while not enough(said) and (reply := client.receive(QUIET)) is not None:
                if reply.id == request and isinstance(piece := reply.result(), bytes):
                    said += piece.decode(errors="replace").replace("\r", "")
        return said

    def ask(self, wanted: Arguments[R]) -> R:
        """What xenctl would ask Dom0's toolstack, unseen. Raises ControlError."""
        with connect(self.name) as client:
            return client.call(wanted)

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
        info = self.ask(Info())
        self.ask(Dmesg(clear=True))
        self.ask(DebugKeys("eg"))
        log = self.ask(Dmesg(clear=True)).decode()
        grants = re.findall(r"domain \d+: (\d+) active entries, (\d+) maps", log)
        reported = log.count("Event channel information")
        require(reported == len(grants) == info.domains, "not every domain's ports and grants are reported")
        nodes = [node.path for node in self.ask(XenstoreLs())]
        return Census(
            domains=info.domains,
            frames_in_use=info.total_frames - info.free_frames,
            event_channels=len(re.findall(r"s=(?:UNBOUND|INTERDOMAIN) ", log)),
            grants=sum(int(count) for counts in grants for count in counts),
            processes=len(processes_of(self.supervisor)),
            xenstore_nodes=sum(OF_A_GUEST.search(path) is not None for path in nodes),
        )


def typed(words: Iterable[str | Path]) -> str:
    """A command's words as one would type them in the folder where the files are."""
    return " ".join(word.name if isinstance(word, Path) else word for word in words)


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
    """Prints a paragraph."""
    print(f"\n{text}", flush=True)


def require(condition: bool, what: str) -> None:
    """Failed(what) unless the condition holds."""
    if not condition:
        raise Failed(what)


def take_census(machine: Machine, before: Census) -> None:
    """Show what is there now, compared with `before`. Raises Failed if anything is left over."""
    deadline = time.monotonic() + PATIENCE
    while (now := machine.census()) != before and time.monotonic() < deadline:
        time.sleep(POLL)
    print(f"     {'':<16}{'before':>8}{'now':>8}{'left over':>12}")
    for (what, then), count in zip(asdict(before).items(), asdict(now).values(), strict=True):
        print(f"     {what.replace('_', ' '):<16}{then:>8}{count:>8}{count - then:>12}")
    if now != before:
        machine.ask(DebugKeys("eqg"))
        print(machine.ask(Dmesg()).decode())
    require(now == before, "something of the guests is left over")
