"""Where a vCPU stands between its guest and the hypervisor: one state, and one table of what may follow.

              ┌────────────────────── SEND: its process gets the answer ──────────────────────┐
              ▼                                                                                │
    NEW    GUEST ── FREEZE: it would not stop ──► FROZEN                                       │
     │       │  ▲──────────── THAW ──────────────── │                                          │
     │       │                                      │                                          │
     └───────┴───────────── REQUEST ────────────────┘                                          │
                               ▼                                                               │
                           HYPERCALL ───────────────── ANSWER ─────────────────────────► ANSWERED
                            │     ▲                                                            ▲
                          BLOCK   │ REST: a multicall goes on                                  │
                            ▼     │                                                            │
                           BLOCKED ─────────────────── ANSWER: woken ──────────────────────────┘

    every state ── END: its domain dies ──► GONE

Only in GUEST does the guest execute instructions, and then the vCPU holds a CPU. In FROZEN its process is stopped wherever it
was, perhaps in the middle of an instruction. In all other states its registers are at rest. Whether a vCPU may run is another
question (`runnable`): it needs to be up, in a domain that is alive, not paused and not shut down.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

NO_REQUEST: Final = -1
"""`VcpuRun.nr` of a vCPU that has asked nothing yet, or asks on its process's own account."""


class Run(IntEnum):
    """States of a vCPU."""

    NEW = 0  # its process has not asked to start yet
    GUEST = 1
    FROZEN = 2
    HYPERCALL = 3  # a request is being performed
    BLOCKED = 4  # SCHEDOP_block or SCHEDOP_poll
    ANSWERED = 5  # the answer is there, and waits for a CPU
    GONE = 6


class RunEvent(IntEnum):
    """What happens to a vCPU."""

    REQUEST = 0
    ANSWER = 1
    BLOCK = 2
    REST = 3
    SEND = 4
    FREEZE = 5
    THAW = 6
    END = 7


class RunAction(IntEnum):
    """What run control does when a state is entered."""

    NOTHING = 0
    SLEEP = 1  # the CPU is given up
    GO_ON = 2  # send the answer if the vCPU holds a CPU, else queue for one
    REPLY = 3  # the process gets the answer
    STOP_PROCESS = 4
    CONTINUE_PROCESS = 5


TRANSITIONS: Final[dict[tuple[Run, RunEvent], tuple[Run, RunAction]]] = {
    (Run.NEW, RunEvent.REQUEST): (Run.HYPERCALL, RunAction.GO_ON),
    (Run.GUEST, RunEvent.REQUEST): (Run.HYPERCALL, RunAction.NOTHING),
    (Run.FROZEN, RunEvent.REQUEST): (Run.HYPERCALL, RunAction.CONTINUE_PROCESS),
    (Run.HYPERCALL, RunEvent.ANSWER): (Run.ANSWERED, RunAction.GO_ON),
    (Run.HYPERCALL, RunEvent.BLOCK): (Run.BLOCKED, RunAction.SLEEP),
    (Run.BLOCKED, RunEvent.ANSWER): (Run.ANSWERED, RunAction.GO_ON),
    (Run.BLOCKED, RunEvent.REST): (Run.HYPERCALL, RunAction.GO_ON),
    (Run.ANSWERED, RunEvent.SEND): (Run.GUEST, RunAction.REPLY),
    (Run.GUEST, RunEvent.FREEZE): (Run.FROZEN, RunAction.STOP_PROCESS),
    (Run.FROZEN, RunEvent.THAW): (Run.GUEST, RunAction.CONTINUE_PROCESS),
    **{(state, RunEvent.END): (Run.GONE, RunAction.NOTHING) for state in Run},
}
"""What is not in this table does not happen: a request that is not is a protocol error, everything else a bug."""


_EXECUTING: Final = (Run.GUEST, Run.FROZEN)


@dataclass(slots=True)
class VcpuRun:
    """One vCPU's state, as plain data: `snapshot` is a copy of it."""

    state: Run = Run.NEW
    seq: int = 0
    """The number of the last request."""
    nr: int = NO_REQUEST
    """Which hypercall that was; negative for what the process asked on its own account."""
    result: int = 0
    """The answer, in ANSWERED."""
    cancelled: int | None = None
    """The answer instead, when the shutdown that this request made is cancelled (XEN_DOMCTL_resumedomain)."""
    ports: tuple[int, ...] = ()
    """What a SCHEDOP_poll waits for, in BLOCKED."""
    saving: bool = False
    """The process was asked for the registers; the vCPU does not run until they are here."""
    saved: bool = False
    """The vCPU's `context` holds its registers of now."""

    @property
    def at_rest(self) -> bool:
        """Whether the guest executes nothing, and is between two instructions."""
        return self.state not in _EXECUTING

    @property
    def has_run(self) -> bool:
        """Whether its process has ever been answered: before that the guest has executed nothing."""
        return self.seq > 1 or self.state in _EXECUTING

    def snapshot(self) -> VcpuRun:
        """A copy, to be kept."""
        return replace(self)
