"""Several runs at once, each in a process of its own: one that fails or dies takes no other with it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Final, Generic, NamedTuple, TypeVar

from domains.lab.image import LabError

PR_SET_PDEATHSIG: Final = 1
Result = TypeVar("Result")


class Failed(NamedTuple):
    """What stopped a run, in one line."""

    reason: str


class Running(NamedTuple, Generic[Result]):
    """A run under way."""

    number: int
    process: ForkProcess


def each_in_a_process(runs: Sequence[Callable[[], Result]]) -> Generator[tuple[int, Result | Failed]]:
    """The result of each, with its place in `runs`, in the order in which they end; as many at a time as there are CPUs. What a
    run returns must be something that can be pickled. When the caller stops listening, what runs is ended.
    """
    context = multiprocessing.get_context("fork")
    waiting = list(enumerate(runs))[::-1]
    running: dict[Connection, Running[Result]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < len(os.sched_getaffinity(0)):
                number, run = waiting.pop()
                receive, send = context.Pipe(duplex=False)
                process = context.Process(target=_perform, args=(run, send, os.getpid()), daemon=True)
                process.start()
                send.close()
                running[receive] = Running(number, process)
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                yield running[ready].number, _result(ready, running[ready].process)
                ready.close()
                del running[ready]
    finally:
        for receive, one in running.items():
            one.process.terminate()
            one.process.join()
            receive.close()


def _perform(run: Callable[[], Result], send: Connection, parent: int) -> None:
    """The process of one run, which does not outlive `parent`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return
    outcome: Result | Failed
    try:
        outcome = run()
    except LabError as error:
        outcome = Failed(str(error))
    except Exception as error:  # noqa: BLE001 - the outermost frame of the process
        outcome = Failed(f"{type(error).__name__}: {error}")
    send.send(outcome)


def _result(receive: Connection, process: ForkProcess) -> Result | Failed:
    try:
        outcome: Result | Failed = receive.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        how = signal.strsignal(-code) if code < 0 else f"exit code {code}"
        return Failed(f"its process died: {how}")
    process.join()
    return outcome
