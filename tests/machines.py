"""Real machines for tests: started through xenctl as a user would, each with a name of its own, gone without a trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from domains.control.address import MachineAddress
from domains.control.arguments import Arguments
from domains.control.client import ControlClient
from domains.control.operations import Destroy, Info, List
from domains.control.protocol import ControlError
from domains.control.records import encode
from domains.xenctl.folder import folder_of, supervisor_pid
from domains.xenctl.machine import stop_machine
from tests.warm_xenctl import warm_xenctl

REPOSITORY = Path(__file__).resolve().parent.parent
XENCTL = [sys.executable, "-m", "domains.xenctl"]


def wait_until(condition: Callable[[], Any], seconds: float = 20.0, what: str = "the condition") -> Any:
    """Poll until `condition` gives something true, and return it; AssertionError after `seconds`. Ever more slowly: other tests
    run beside this one.
    """
    deadline, pause = time.monotonic() + seconds, 0.01
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true in {seconds} s"
        time.sleep(pause)
        pause = min(1.2 * pause, 0.1)
    return found


def pids_of(machine_pid: int) -> list[int]:
    """The supervisor and its children that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z" and machine_pid in (int(entry.name), int(fields[1])):
            found.append(int(entry.name))
    return found


class Machine:
    """A running machine, started with `options` by way of the command `under`, such as nsenter. `xenctl` runs one
    command against it and returns the completed process; `info`, `domains`, `destroy` and `stop`, of which almost every
    test has need, ask its toolstack themselves, without a process for each question.
    """

    def __init__(self, *, memory: int = 512, options: Sequence[str] = (), under: Sequence[str] = ()) -> None:
        self.name = f"t{uuid.uuid4().hex[:10]}"
        self.environment = {**os.environ, "XENCTL_MACHINE": self.name, "PYTHONPATH": str(REPOSITORY)}
        try:
            started = self.xenctl("start", "--memory", str(memory), *options, under=under)
        except subprocess.TimeoutExpired:
            self.xenctl("stop")
            raise
        assert started.returncode == 0, started.stderr
        self.folder = folder_of(self.name)
        info = self.info()
        self.xenstored_path = info["xenstored_path"]
        pid = supervisor_pid(self.folder)
        assert pid is not None
        self.supervisor = pid
        self.free_frames = int(info["free_frames"])
        self.pids = pids_of(self.supervisor)

    def xenctl(
        self,
        *words: str | Path,
        timeout: float = 60,
        stdin: str = "",
        under: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[str]:
        texts = [str(word) for word in words]
        if not under:
            return warm_xenctl().run(texts, self.environment, stdin, timeout)
        return subprocess.run(
            [*under, *XENCTL, *texts],
            capture_output=True,
            text=True,
            timeout=timeout,
            input=stdin,
            env=self.environment,
            check=False,
        )

    def json(self, *words: str) -> Any:
        done = self.xenctl(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def ask(self, operation: Arguments[Any]) -> Any:
        """What the toolstack answers, as `--json` prints it."""
        with ControlClient(MachineAddress.in_folder(self.folder), timeout=60) as client:
            return encode(client.call(operation))

    def info(self) -> dict[str, Any]:
        """What `xenctl info` tells."""
        about: dict[str, Any] = self.ask(Info())
        return about

    def domains(self) -> dict[str, dict[str, Any]]:
        """What `xenctl list` tells, by name. A domain that is being taken apart has none any more, and is not there."""
        return {d["name"]: d for d in self.ask(List()) if d["name"] is not None}

    def domain(self, name: str) -> dict[str, Any]:
        """What `xenctl list` tells of one domain. If it is not there, the test fails with what Xen's console has of it."""
        found = self.domains().get(name)
        assert found is not None, (
            f"no domain {name}; xenctl dmesg ends:\n{self.xenctl('dmesg').stdout[-3000:]}"
        )
        return found

    def is_gone(self, name: str) -> bool:
        """Whether no domain of this name is listed."""
        return name not in self.domains()

    def create(self, tmp_path: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
        """`xenctl create` of a configuration given as text."""
        path = tmp_path / f"{uuid.uuid4().hex[:8]}.cfg"
        path.write_text(text)
        return self.xenctl("create", path, *options)

    def guest(
        self, tmp_path: Path, body: str, *options: str, name: str = "guest", extra: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Create a Python guest whose class is `Probe` in the source text `body`."""
        module = tmp_path / f"guest_{uuid.uuid4().hex[:8]}.py"
        module.write_text("from domains.kernel.guest import Guest\n\n" + body)
        text = f'name = "{name}"\nkernel = "python:{module}:Probe"\nmemory = 8\n{extra}\n'
        return self.create(tmp_path, text, *options)

    def destroy(self, name: str) -> None:
        """End a domain. ControlError if there is none of that name."""
        self.ask(Destroy(name))

    def end_domains(self) -> None:
        """End all domains but Dom0; one that ends by itself meanwhile is none to complain of."""
        for name in self.domains().keys() - {"Domain-0"}:
            with suppress(ControlError):
                self.destroy(name)

    def census_is_clean(self) -> bool:
        """Nothing is left of any domain but Dom0: no frame, no process, no name."""
        info = self.info()
        if info["domains"] != 1 or info["free_frames"] != self.free_frames:
            return False
        return sorted(pids_of(self.supervisor)) == sorted(self.pids)

    def stop(self) -> None:
        """End the machine, if it has not ended, and see that nothing of it is left."""
        with suppress(ControlError):  # it may be ending already
            stop_machine(self.name)
        wait_until(lambda: not pids_of(self.supervisor), 10, "the end of the machine's processes")
        wait_until(lambda: not self.folder.exists(), 5, "the removal of the machine's folder")
