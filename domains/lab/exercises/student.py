"""A student's function, asked in a process of its own: it may loop, exit or crash, and none of it is the checks' end.

check ──entries, frames (JSON)──► python -m domains.lab.exercises.student FILE ANSWERS ──► answers (JSON), in the file ANSWERS
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from domains.lab.image import LabError

SECONDS: Final = 20
"""For all entries: a right function needs a thousandth of it."""


@dataclass(frozen=True)
class Frame:
    """What the student is told of one frame."""

    owner: str
    type: str
    type_uses: int


def answers_of(file: Path, entries: list[int], frames: dict[int, Frame]) -> list[str]:
    """What the function says of each entry. LabError: it is no Python, has no such function, or did not come to an end."""
    question = json.dumps([entries, {mfn: asdict(frame) for mfn, frame in frames.items()}])
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "answers"
        command = [sys.executable, "-m", "domains.lab.exercises.student", str(file), str(written)]
        status = _run(command, question)
        if written.exists() and (answer := json.loads(written.read_text())):
            if "error" in answer:
                raise LabError(f"{file}: {answer['error']}")
            return list(answer["answers"])
    if status is None:
        raise LabError(f"{file}: it does not come to an end in {SECONDS} seconds")
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    raise LabError(f"{file}: it ended by itself ({how}) before it had answered")


def _run(command: list[str], question: str) -> int | None:
    """The exit status; None: it was killed, with all that it had started."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=sys.stderr.fileno(), text=True, start_new_session=True
    )
    try:
        process.communicate(question, timeout=SECONDS)
        return process.returncode
    except subprocess.TimeoutExpired:
        return None
    finally:
        _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        process.wait()


def load(file: str) -> Callable[[int, dict[int, Frame]], str]:
    """The student's function, with its refusals and its own failures as answers. LabError."""
    try:
        names = runpy.run_path(file)
    except Exception as error:  # noqa: BLE001 - whatever a student's file may do
        raise LabError(f"{type(error).__name__}: {error}") from None
    function: Any = names.get("validate_l1e")
    refused: Any = names.get("Refused")
    if not callable(function) or not (isinstance(refused, type) and issubclass(refused, Exception)):
        raise LabError("it must have a function validate_l1e and an exception Refused")

    def answer(entry: int, frames: dict[int, Frame]) -> str:
        try:
            return str(function(entry, frames))
        except refused:
            return "refused"
        except Exception as error:  # noqa: BLE001
            return f"{type(error).__name__}: {error}"

    return answer


def main(file: str, written: str) -> None:
    """The process's body."""
    entries, described = json.load(sys.stdin)
    frames = {int(mfn): Frame(**frame) for mfn, frame in described.items()}
    try:
        answer = load(file)
        result: dict[str, Any] = {"answers": [answer(entry, frames) for entry in entries]}
    except LabError as error:
        result = {"error": str(error)}
    Path(written).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
