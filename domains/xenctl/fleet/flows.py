"""What the head does step by step with one domain: send what its host lacks, start it, move it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, Final

from domains.control.fleet_messages import CHUNK
from domains.control.protocol import ControlError, Exit
from domains.fleet.control import Head
from domains.fleet.starting import Action, State
from domains.xenctl.fleet.journal import note
from domains.xenctl.fleet.orders import Ask, Flow, HostLost
from domains.xenctl.fleet.portable import Files, Portable

LOOKS: Final = 120
"""How often it is looked, at both ends, who has a domain whose migration broke."""


class Flows:
    """Of one fleet."""

    def __init__(
        self,
        head: Head,
        files: Files,
        domains: Mapping[str, Portable],
        perform: Callable[[list[Action]], None],
        where: Callable[[str, str], dict[str, Any]],
    ) -> None:
        """`where(source, target)`: how the machine of the one names that of the other. Raises ControlError."""
        self._head, self._files, self._domains, self._perform = head, files, domains, perform
        self._where = where

    def starting(self, name: str, host: str) -> Flow:
        """Start a domain on a host. If the host is lost on the way, what becomes of it is decided where that is found out."""
        try:
            yield from self._send_files(name, host)
            answer = yield self._start(name, host)
        except HostLost:
            return
        except ControlError as error:
            note(f"{name} on {host} failed: {error.message}")
            self._perform(self._head.failed(name, host, error.message))
            return
        self._perform(self._head.ready(name, host, done=done_its_work(answer)))

    def knowing(self, host: str, peers: list[str], keys: list[str]) -> Flow:
        """Tell a host the addresses of all, and their machines' keys. If that cannot be, all goes on as it was."""
        try:
            yield Ask(host, "peers", {"peers": peers, "keys": keys})
        except ControlError as error:
            note(f"networks of {host}: {error.message}")

    def looking(self, host: str) -> Flow:
        """Find out which domains have ended by themselves: twice not there, for one that reboots is away for a moment."""
        absent: set[str] = set()
        for look in range(2):
            there = self._ready_on(host)
            try:
                listed = yield Ask(host, "list", {"after": look})
            except ControlError:
                return
            names = (
                {row.get("name") for row in listed if isinstance(row, dict)}
                if isinstance(listed, list)
                else set()
            )
            gone = there & self._ready_on(host) - names
            absent = gone if look == 0 else absent & gone
            if not absent:
                return
        for name in sorted(absent):
            note(f"{name} has ended by itself on {host}")
            self._perform(self._head.ready(name, host, done=True))

    def _ready_on(self, host: str) -> set[str]:
        domains = (self._head.domains.get(one.name) for one in self._head.placement.domains_on(host))
        return {one.wanted.name for one in domains if one is not None and one.state is State.READY}

    def moving(self, name: str, source: str, target: str) -> Flow:
        """Move a domain. While it runs, if it can; a Python guest cannot: it is stopped, and started at the target; if that
        does not succeed, again at the source.
        """
        domain = self._domains[name]
        try:
            yield from self._send_files(name, target)
            if not domain.is_python:
                yield from self._alive(domain, source, target)
                return
            if domain.keeps:
                what = f"its disk {domain.keeps[0]} is on {source} alone, and a Python guest cannot move while it runs"
                raise ControlError(Exit.FAILURE, what)
            yield Ask(source, "stop", {"name": name})
        except ControlError as error:
            if not (isinstance(error, HostLost) and self._head.domains[name].host != source):
                self._perform(self._head.moved(name, source, target, why=error.message))
            return
        try:
            if self._head.domains[name].target != target:  # it was lost meanwhile, and may have begun anew
                raise HostLost(target)
            yield self._start(name, target)
        except ControlError as error:
            why = error.message
        else:
            note(f"{name} has moved from {source} to {target}")
            self._perform(self._head.moved(name, source, target))
            return
        try:
            yield self._start(name, source)
        except ControlError:
            self._perform(self._head.fell(name, source, why))
            return
        self._perform(self._head.moved(name, source, target, why=why))

    def _alive(self, domain: Portable, source: str, target: str) -> Flow:
        """Move a domain while it runs. Raises ControlError if it has not moved and runs at the source."""
        name = domain.name
        if domain.keeps and domain.present:
            what = f"its disk {domain.keeps[0]} would have to be copied, and {domain.present[0]} must not be"
            raise ControlError(Exit.FAILURE, what)
        about = {"name": name, "where": self._where(source, target), "copy_disks": bool(domain.images)}
        try:
            answer = yield Ask(source, "migrate", about)
        except HostLost:
            raise
        except ControlError as error:
            yield from self._await_end(name, source, target, error)
            answer = {}
        yield Ask(target, "arrived", {"domain": domain.model_dump(mode="json")})
        note(f"{name} has moved from {source} to {target} while it ran: {answer}")
        self._perform(self._head.moved(name, source, target))

    def _await_end(self, name: str, source: str, target: str, error: ControlError) -> Flow:
        """A migration broke: wait until it is certain who has the domain. Returns if that is the target; raises `error` if it
        is the source.
        """
        for _ in range(LOOKS):
            if (yield Ask(source, "runs", {"name": name})) is True:
                raise error
            if (yield Ask(target, "runs", {"name": name})) is True:
                return
        what = f"{name} is in doubt between {source} and {target}: {error.message}"
        raise ControlError(Exit.FAILURE, what)

    def _start(self, name: str, host: str) -> Ask:
        return Ask(host, "start", {"domain": self._domains[name].model_dump(mode="json")})

    def _send_files(self, name: str, host: str) -> Generator[Ask, Any, None]:
        """What the host does not have of what the domain reads. Raises ControlError."""
        files = self._domains[name].files
        if not files:
            return
        missing = yield Ask(host, "missing", {"digests": list(files)})
        for digest in missing if isinstance(missing, list) else ():
            if digest not in files:
                continue
            note(f"{files[digest]} is sent to {host}")
            try:
                yield from self._send_file(digest, files[digest], host)
            except OSError as error:
                path = self._files.paths[digest]
                raise ControlError(Exit.FAILURE, f"{name}: cannot read {path}: {error.strerror}") from None

    def _send_file(self, digest: str, file: str, host: str) -> Generator[Ask, Any, None]:
        with self._files.paths[digest].open("rb") as reader:
            offset, data = 0, reader.read(CHUNK)
            while True:
                after = reader.read(CHUNK)
                about = {"digest": digest, "name": file, "offset": offset, "last": not after}
                yield Ask(host, "put", about, data)
                if not after:
                    return
                offset, data = offset + len(data), after


def done_its_work(answer: Any) -> bool:
    """Whether an agent says that a domain has ended as it should."""
    return isinstance(answer, dict) and answer.get("done") is True
