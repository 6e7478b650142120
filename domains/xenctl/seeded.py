"""What a command that starts a machine with a seed does first, and what all of them say of seeds.

Python orders sets of texts by a key that each program draws when it begins. All processes of a machine are forked from the
command that starts it, so that command begins anew, with the key that follows from the seed.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Final

from domains.control.protocol import ControlError, Exit
from domains.xenctl.launch import DEFAULT_CPUS
from domains.xenctl.options import Option

KEY: Final = "PYTHONHASHSEED"
LARGEST_KEY: Final = (1 << 32) - 1

Seed = Annotated[
    int | None,
    Option(
        min=0,
        max=(1 << 63) - 1,
        help="Repeat: one vCPU at a time, on virtual time; everything by chance follows from this number.",
    ),
]


def key_of(seed: int) -> str:
    """The key of Python's hashes that follows from a seed: the value of the environment's KEY."""
    return str(seed % LARGEST_KEY + 1)


def repeatable(seed: int | None, seconds: float = 0.0) -> None:
    """Begin this program anew, unless it has the key of `seed`, or there is no seed. ControlError: `seconds` without one."""
    if seed is None:
        if seconds:
            raise ControlError(Exit.USAGE, "--for is for a machine with --seed; --timeout bounds any run")
        return
    key = key_of(seed)
    if os.environ.get(KEY) != key:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, KEY: key})


def cpus_with(seed: int | None, cpus: int | None) -> int:
    """How many emulated CPUs a machine gets, whose user has asked for `cpus`, or said nothing. Raises ControlError."""
    if seed is None:
        return DEFAULT_CPUS if cpus is None else cpus
    if cpus not in (None, 1):
        raise ControlError(
            Exit.USAGE, f"a machine with a seed has one CPU, not {cpus}: it runs one vCPU at a time"
        )
    return 1
