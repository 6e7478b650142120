"""What the parent of all domains' processes loads for them before it forks them."""

import subprocess
import sys

import pytest

from domains.cpu.process import ENGINES
from hypervisor.wire.mailbox import Engine

LOAD = """
import os, sys
from domains.cpu.process import ENGINES, load_engine
from hypervisor.machine.memory import create_memfd
from hypervisor.wire.mailbox import MAILBOX_FRAMES, Engine, Mailbox

engine = Engine(int(sys.argv[1]))
mailbox_fd = create_memfd("mailbox", MAILBOX_FRAMES)
Mailbox(mailbox_fd).set_engine(engine)
ENGINES.update({engine: name for name in sys.argv[2:]})
threads = len(os.listdir("/proc/self/task"))  # numpy's, which a supervisor does without
load_engine(mailbox_fd, ("drivers.block.front", "drivers.no_such_driver"))
assert len(os.listdir("/proc/self/task")) == threads
print(*{name for name in (*ENGINES.values(), "drivers.block.front") if name in sys.modules})
"""


def loaded(engine: Engine, *module: str) -> list[str]:
    """What a parent holds of the engines and a front end after it has prepared for a guest of this kind, by which it got no
    thread.
    """
    command = [sys.executable, "-c", LOAD, str(int(engine)), *module]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()


@pytest.mark.parametrize("engine", [Engine.X86_64, Engine.PYTHON])
def test_the_engine_of_a_guest_is_loaded_before_the_fork_alone_and_without_a_thread(engine: Engine) -> None:
    """Each process of an x86 guest once loaded the engine anew, which took most of the time to its first line."""
    front_end = ["drivers.block.front"] if engine is Engine.PYTHON else []
    assert sorted(loaded(engine)) == [ENGINES[engine], *front_end]


def test_an_engine_that_is_not_there_does_not_end_the_parent() -> None:
    assert loaded(Engine.X86_64, "domains.cpu.no_such_engine") == []
