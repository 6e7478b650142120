"""For negative controls: what becomes of a test where LOCKed instructions are not atomic towards other processes."""

import subprocess
import sys

WITHOUT = """
from domains.cpu.x86.emulator import selfcheck
from domains.cpu.x86.emulator.atomic_locks import AtomicLocks
AtomicLocks.want = lambda *_: None
selfcheck.check_locks = lambda *_: None
"""


def printed_without_atomic_locks(program: str) -> str:
    """What the program prints, in a process of its own. AssertionError: it fails."""
    command = [sys.executable, "-c", WITHOUT + program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
