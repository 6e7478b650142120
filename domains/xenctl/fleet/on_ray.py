"""Hosts that Ray holds (https://docs.ray.io; the extra `fleet`): an actor on a node starts the agent there and tells when it
has ended.

Ray's part is to know the nodes, to start something on them, to keep account of `xen_mib`, a custom resource of nodes, and to
notice a node that is dead. Leases, orders and images do not go through Ray: the agent speaks with the head itself. Nodes are
started by whoever owns them, the first with --head (docs/fleet.md):

    ray start --address=10.0.0.1:6379 --resources='{"xen_mib": 4096}'

A host with an `address` is the node with that address; another is any node with so much `xen_mib` left.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import ray

from domains.control.protocol import ControlError, Exit
from domains.xenctl.fleet.hosts import Introduction
from domains.xenctl.fleet.journal import without_clock
from domains.xenctl.fleet.processes import AGENT

MEMORY: Final = "xen_mib"
"""The custom resource that says how much memory a node has for machines."""
ROOT: Final = str(Path(__file__).parents[3])
"""Where this program is, on each host."""
LONGEST: Final = 400
"""Letters of what is told of an error of Ray's."""
PATIENCE: Final = 15.0
"""Seconds that agents have to end."""


class Starter:
    """On a node, in a process of Ray's: starts an agent there, which ends with this process."""

    def __init__(self) -> None:
        self._agent: subprocess.Popen[bytes] | None = None

    def run(self, introduction: str, address_known: bool) -> str:
        """Start the agent and wait until it has ended; how it ended, in one line."""
        about = Introduction.model_validate_json(introduction)
        if not address_known:
            about = about.model_copy(update={"address": ray.util.get_node_ip_address()})
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH")))),
        }
        self._agent = subprocess.Popen(
            [sys.executable, *AGENT],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        assert self._agent.stdin is not None
        assert self._agent.stderr is not None
        self._agent.stdin.write(about.model_dump_json().encode() + b"\n")
        self._agent.stdin.flush()  # and not closed: its end tells the agent that this process is gone
        said = "it said nothing"
        for line in self._agent.stderr:
            said = without_clock(line.decode("utf-8", "replace").strip()) or said
        return f"its agent ended with code {self._agent.wait()}: {said}"


class RayHosts:
    """As hosts.Hosts."""

    def __init__(self, address: str | None, given: Mapping[str, bool]) -> None:
        """`address`: of Ray's head, "auto" if None; `given`: whether a host's own address is given. Raises ControlError."""
        try:
            ray.init(address=address or "auto", log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ControlError(Exit.FAILURE, f"cannot reach Ray: {in_short(error)}") from None
        self._given = given
        self._actors: dict[str, Any] = {}
        self._results: dict[str, Any] = {}

    def begin(self, introduction: Introduction) -> None:
        """As Hosts.begin. A node that has too little `xen_mib` is waited for, until the head has no more patience."""
        host = introduction.host
        resources: dict[str, float] = {MEMORY: introduction.memory}
        if self._given.get(host):
            resources[f"node:{introduction.address}"] = 0.001
        actor = ray.remote(Starter).options(
            num_cpus=0,
            resources=resources,
            max_restarts=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": {"PYTHONPATH": ROOT}},
        )
        self._actors[host] = actor.remote()
        self._results[host] = self._actors[host].run.remote(
            introduction.model_dump_json(), bool(self._given.get(host))
        )

    def ended(self) -> dict[str, str]:
        """What the actors have returned; of one whose node or process has died, what Ray says."""
        found = {}
        for host, result in self._results.items():
            ready, _ = ray.wait([result], timeout=0)
            if ready:
                try:
                    found[host] = str(ray.get(result))
                except ray.exceptions.RayError as error:
                    found[host] = f"Ray says: {in_short(error)}"
        return found

    def forget(self, host: str) -> None:
        """As Hosts.forget."""
        del self._results[host]
        with suppress(ray.exceptions.RayError):
            ray.kill(self._actors.pop(host))

    def end(self) -> None:
        """As Hosts.end."""
        deadline = time.monotonic() + PATIENCE
        results = list(self._results.values())
        if results:
            ray.wait(results, num_returns=len(results), timeout=max(deadline - time.monotonic(), 0))
        for actor in self._actors.values():
            with suppress(ray.exceptions.RayError):
                ray.kill(actor)  # its agent sees the end of its standard input
        ray.shutdown()


def in_short(error: Exception) -> str:
    """What an exception says, in one line; of a long one the beginning and the end, where Ray tells the cause."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= LONGEST else f"{words[: LONGEST // 2]} … {words[-LONGEST // 2 :]}"
