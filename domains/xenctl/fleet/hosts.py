"""What a fleet wants of its hosts: that an agent begins there. Nothing else in a fleet depends on what holds them.

    processes.py    each host is a process of this user's on this host, or wherever a command such as ssh starts it
    on_ray.py       Ray holds the hosts (the extra `fleet`)

An agent is `python -m domains.xenctl.fleet.agent` with an Introduction as a line of JSON on its standard input. From then on it
speaks with the head by itself (domains/control/fleet_link.py): leases, orders and images never go through what started it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from domains.xenctl.fleet.networks import Lan


class Introduction(BaseModel):
    """All that an agent is told by whoever starts it: the head, its own keys, and its machine. Times in ns."""

    model_config = ConfigDict(frozen=True)

    fleet: str
    host: str
    endpoint: str
    head_key: str
    public_key: str
    secret_key: str
    machine: str
    memory: int
    cpus: int
    sched: str
    slice_ns: int | None
    lasts: int
    renew: int
    margin: int
    address: str
    listens: bool
    lans: list[Lan]
    peers: list[str]
    store: str | None


class Hosts(Protocol):
    """What holds the hosts."""

    def begin(self, introduction: Introduction) -> None:
        """Start an agent on the host that the introduction names; it is not waited for. Raises ControlError if that
        cannot be tried.
        """

    def ended(self) -> Mapping[str, str]:
        """The hosts whose agents are known to have ended, or could not be started, each with the reason in one line."""

    def forget(self, host: str) -> None:
        """This host's agent has ended, and another may begin."""

    def end(self) -> None:
        """The fleet goes down and the agents have been told: return when all have ended, and end what has not after a while."""
