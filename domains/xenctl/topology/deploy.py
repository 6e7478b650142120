"""A topology on a machine: brought up, taken down, looked at.

`up` may be called again and again: what is there stays, what is missing or was described otherwise is made. `down`
takes away what `up` made, and nothing else; the machine too, if it was started for the topology and nobody else
uses it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from domains.control.client import ControlClient
from domains.control.operations import Console, Destroy, Info, List, Listed
from domains.control.protocol import ControlError, Exit
from domains.control.snapshot_operations import SnapshotList
from domains.xenctl import launch
from domains.xenctl import machine as machines
from domains.xenctl.folder import folder_of, is_running
from domains.xenctl.private_machine import PrivateMachine
from domains.xenctl.topology.bring_up import BringUp, Tell, in_time
from domains.xenctl.topology.check import Project, memory_needed, project_of
from domains.xenctl.topology.expand import Plan, Planned
from domains.xenctl.topology.model import Topology
from domains.xenctl.topology.state import State, mark_of
from domains.xenctl.topology.vxlan_ports import connect, disconnect
from hypervisor.public.types import PAGES_PER_MIB

DESTROY_TIMEOUT: Final = 30.0


@dataclass(frozen=True)
class Standing:
    """How one domain of a topology stands."""

    name: str
    state: str
    """absent, done, starting, ready, changed, ended, foreign, or surplus: made by it, but not in it any more."""
    domid: int | None
    memory_mib: int | None
    addresses: tuple[str, ...]


class Deployment:
    """One topology on one machine. As a context manager it is up inside the block, and gone after it."""

    def __init__(
        self, topology: Topology | Project, machine: str | None = None, tell: Tell = lambda _name, _what: None
    ) -> None:
        """`machine`: by name; without one the topology gets a machine of its own, which ends with the block.

        `tell(domain, what)` is called while domains come up. Raises TopologyError.
        """
        self.project = project_of(topology)
        self.project.plan()
        self._tell = tell
        self._private = None
        if machine is None:
            self._private = PrivateMachine("topology", self.hardware())
        self.machine = self._private.name if self._private is not None else machine or machines.DEFAULT
        self._folder = folder_of(self.machine)
        self._state = State(self._folder, self.project.name)

    def __enter__(self) -> Deployment:
        try:
            self.up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._private is not None:
            self._private.end()
        else:
            self.down()

    def plan(self) -> Plan:
        """The domains as they are to be on this machine."""
        return self.project.plan(self._state.folder)

    def up(self, only: Iterable[str] = ()) -> None:
        """Bring up all domains, or those named and what they come after. Raises ControlError."""
        plan = self.plan()
        names = chosen(plan, list(only))
        if self._private is None and not is_running(self._folder):
            self._check_snapshots(plan, frozenset())
        started = self._start_machine(plan)
        with self._state.locked() as state, self._client() as client:
            if started:
                state.note_machine()
            self._check_machine(client, plan)
            self._check_snapshots(plan, {one.name for one in client.call(SnapshotList())})
            connect(client, plan.vxlans, state)
            folder = self.project.folder
            BringUp(client, plan, state, folder, self._tell).run(names)

    def down(self) -> None:
        """Take away every domain that bears the topology's mark, the images made for it, and the machine if it
        was started for it and no one else has domains there.
        """
        if not is_running(self._folder):
            return
        with self._state.locked() as state, self._client() as client:
            started = state.started_machine
            while own := [about for about in client.call(List()) if state.owns(about)]:
                self._destroy(client, own)
            disconnect(client, state)
            others = [about for about in client.call(List()) if about.domid != 0]
            state.remove()
        if started and not others:
            machines.stop_machine(self.machine)

    def status(self) -> list[Standing]:
        """How each domain stands, in the file's order."""
        plan = self.plan()
        if not is_running(self._folder):
            return [standing(planned, None, "absent") for planned in plan.domains.values()]
        state = self._state.read()
        with self._client() as client:
            there = {about.name: about for about in client.call(List())}
        rows = [
            standing(planned, there.get(planned.name), state_of(state, planned, there.get(planned.name)))
            for planned in plan.domains.values()
        ]
        surplus = [about for name, about in there.items() if state.owns(about) and name not in plan.domains]
        return rows + [
            Standing(about.name or "", "surplus", about.domid, about.memory_kib // 1024, ())
            for about in surplus
        ]

    def expect(self, domain: str, text: str, timeout: float = 30.0) -> str:
        """Wait until a domain's console shows `text`; all it has shown, up to there and a little more.

        Raises ControlError.
        """
        deadline = in_time(timeout)
        shown = b""
        with self._client() as client:
            request = client.post(Console(domain))
            while text.encode() not in shown:
                reply = client.receive(max(deadline - time.monotonic(), 0))
                if reply is None:
                    raise ControlError(
                        Exit.TIMED_OUT,
                        f"{domain} did not show '{text}' within {timeout:g} s, but {last(shown)}",
                    )
                if reply.id != request:
                    continue
                result = reply.result()
                if not isinstance(result, bytes):
                    raise ControlError(
                        Exit.FAILURE, f"{domain} ended ({result.ended}) without showing '{text}'"
                    )
                shown += result
        return shown.decode("utf-8", "replace")

    # --- the machine -----------------------------------------------------------------------------

    @contextmanager
    def _client(self) -> Iterator[ControlClient]:
        """A client of the machine, which runs."""
        with machines.connect(self.machine) as client:
            yield client

    def _start_machine(self, plan: Plan) -> bool:
        """Start the machine if it does not run; whether it was started for this topology."""
        if self._private is not None:
            self._private.start()
            return False
        wanted = self.project.topology.machine
        memory = wanted.memory or max(launch.DEFAULT_MEMORY, memory_needed(plan))
        return not is_running(self._folder) and launch.start_machine(
            self.machine, self._hardware(memory, plan)
        )

    def hardware(self) -> launch.Hardware:
        """A machine that is just large enough for the topology."""
        plan = self.project.plan()
        return self._hardware(self.project.topology.machine.memory or memory_needed(plan), plan)

    def _hardware(self, memory: int, plan: Plan) -> launch.Hardware:
        """The machine that the topology wants, with `memory` MiB."""
        wanted = self.project.topology.machine
        slice_ns = None if wanted.slice_ms is None else round(wanted.slice_ms * 1e6)
        return launch.Hardware(memory, wanted.cpus, list(map(str, plan.uplinks)), wanted.sched, slice_ns)

    def _check_machine(self, client: ControlClient, plan: Plan) -> None:
        """Refuse a machine that runs with less than the topology asks for."""
        wanted = self.project.topology.machine
        about = client.call(Info())
        has = about.total_frames // PAGES_PER_MIB
        if wanted.memory is not None and has < wanted.memory:
            raise ControlError(
                Exit.FAILURE,
                f"machine '{self.machine}' has {has} MiB, the topology wants {wanted.memory}; stop it",
            )
        if "cpus" in wanted.model_fields_set and about.nr_cpus < wanted.cpus:
            raise ControlError(
                Exit.FAILURE,
                f"machine '{self.machine}' has {about.nr_cpus} CPUs, the topology wants {wanted.cpus}; stop it",
            )
        has_uplinks = {one.bridge for one in about.uplinks}
        for uplink in plan.uplinks:
            if uplink.bridge not in has_uplinks:
                raise ControlError(
                    Exit.FAILURE,
                    f"machine '{self.machine}' has no uplink of {uplink.bridge}, the topology wants one; stop it",
                )

    def _check_snapshots(self, plan: Plan, there: Collection[str]) -> None:
        """Nothing is made if a domain is to go on from a snapshot that the machine does not have."""
        for planned in plan.domains.values():
            if planned.snapshot is not None and planned.snapshot not in there:
                raise ControlError(
                    Exit.FAILURE,
                    f"machine '{self.machine}' has no snapshot '{planned.snapshot}', from which {planned.name} is to go on;"
                    " 'xenctl snapshot DOMAIN NAME' makes one",
                )

    def _destroy(self, client: ControlClient, own: list[Listed]) -> None:
        """End these domains, all at once. One that has just ended by itself is nobody's error."""
        requests = {client.post(Destroy(str(about.domid))): about.name or "" for about in own}
        deadline = in_time(DESTROY_TIMEOUT)
        while requests:
            reply = client.receive(max(deadline - time.monotonic(), 0))
            if reply is None:
                raise ControlError(Exit.TIMED_OUT, f"{', '.join(requests.values())} did not end")
            name = requests.pop(reply.id, None)
            try:
                reply.result()
            except ControlError as error:
                if error.code != Exit.NO_SUCH_DOMAIN:
                    raise
            if name is not None:
                self._tell(name, "is gone")


def chosen(plan: Plan, only: list[str]) -> list[str]:
    """Names of the domains to bring up: all, or those wanted and all that they come after. Raises ControlError."""
    if not only:
        return list(plan.domains)
    names: dict[str, None] = {}
    for wanted in only:
        found = [planned.name for planned in plan.domains.values() if wanted in (planned.of, planned.name)]
        if not found:
            raise ControlError(Exit.USAGE, f"the topology has no domain '{wanted}'")
        names |= dict.fromkeys(found)
    rest = list(names)
    while rest:
        for before in plan.domains[rest.pop()].after:
            if before not in names:
                names[before] = None
                rest.append(before)
    return [name for name in plan.domains if name in names]


def state_of(state: State, planned: Planned, about: Listed | None) -> str:
    """One word for how a domain stands."""
    if about is None:
        return "done" if state.was_ready(planned, None) else "absent"
    if not state.owns(about):
        return "foreign"
    if mark_of(about) != state.mark(planned):
        return "changed"
    if about.shutdown is not None:
        return "done" if state.was_ready(planned, None) else "ended"
    return "ready" if state.was_ready(planned, about.domid) else "starting"


def standing(planned: Planned, about: Listed | None, state: str) -> Standing:
    """How a planned domain stands, by what `list` says of it; None: it is not there."""
    addresses = tuple(plug.ip.partition("/")[0] for plug in planned.plugs if plug.ip is not None)
    if about is None:
        return Standing(planned.name, state, None, None, addresses)
    return Standing(planned.name, state, about.domid, about.memory_kib // 1024, addresses)


def last(shown: bytes) -> str:
    """The end of what a console has shown, for a message."""
    return f"'{shown[-200:].decode('utf-8', 'replace')}'" if shown else "nothing"


def as_data(rows: list[Standing]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(row) for row in rows]
