"""What scripts/demo runs: a machine's whole life, told to somebody who sees it for the first time.

Everything is done through xenctl, as a user would. Every figure that is shown is asked for, none is assumed; the exit
code is 0 only if all guests did their work and the census after each act equals the one before the first.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from domains.control.protocol import ControlError
from domains.xenctl.folder import folder_of
from scripts.demonstration.first_act import two_at_work
from scripts.demonstration.second_act import street
from scripts.demonstration.stage import XENCTL, Failed, Machine, processes_of, require, say, take_census

MEMORY_MIB: Final = 768


def demonstrate(machine: Machine, folder: Path) -> None:
    """The whole story. Raises Failed."""
    say("1  A machine starts: a supervisor, the hypervisor core, and Dom0 in a process of its own.")
    machine.show("start", "--memory", str(MEMORY_MIB))
    supervisor = machine.supervisor
    for pid, name in sorted(processes_of(supervisor).items()):
        print(f"     process {pid}: {name}")
    before = machine.census()
    two_at_work(machine, folder)
    say("5  The census: what is there now, compared with the machine before it had any guest.")
    take_census(machine, before)
    street(machine, folder)
    say("7  The census again.")
    take_census(machine, before)
    say("8  The machine stops.")
    machine.show("stop")
    require(not processes_of(supervisor), "processes of the machine are left")
    require(not folder_of(machine.name).exists(), "the machine's folder is left")


def end(number: int, _frame: object) -> None:
    """A demonstration that is told to end takes its machine along.

    Python drops an exception that is raised in a destructor, and so this one, if the signal comes while one runs. It is
    raised again after a second.
    """
    signal.signal(signal.SIGALRM, lambda *_: end(number, None))
    signal.alarm(1)
    raise Failed(f"ended by {signal.Signals(number).name}")


def main() -> int:
    """Run the demonstration; 0 if everything went as told."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    print("Xenoscope: a Xen machine out of ordinary processes,", f"run by uid {os.getuid()}.", end=" ")
    print("No root, no KVM, no kernel module.")
    began = time.monotonic()
    machine = Machine()
    with tempfile.TemporaryDirectory(prefix="xenoscope-demo-") as folder:
        try:
            demonstrate(machine, Path(folder))
        except (Failed, ControlError, subprocess.TimeoutExpired, KeyboardInterrupt) as error:
            signal.alarm(0)
            print(f"\ndemo: FAILED: {error or type(error).__name__}", file=sys.stderr)
            subprocess.run([XENCTL, "stop"], env=machine.environment, capture_output=True, check=False)
            return 1
    say(
        f"Done in {time.monotonic() - began:.1f} s; nothing is left. Next: README.md, docs/writing-a-guest.md."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
