"""Watches: which clients are told that a path has changed, and which of them may be told.

An event reaches the watches on its own path and, for `Match.SUBTREE`, those on the ancestors of it. The
removal of a tree is one SUBTREE event for its top and an EXACT event for every node below, so that each watch
inside hears of its own node and those above hear once.

Rule S1 (XSA-115): an event is sent only to a watcher who may read the node, or its parent (who lists it), or
might read it before the change: so one also learns of a removal, and of losing the right to read. Special
events go by the permissions of the special name alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from domains.dom0.xenstore.node import Node
from domains.dom0.xenstore.outgoing import Outstanding
from domains.dom0.xenstore.path import Path, is_special, parent_of, self_and_ancestors
from domains.dom0.xenstore.perms import Who, may_read
from domains.dom0.xenstore.store import Changes, Match, Store


class Watcher(Protocol):
    """A connection, as far as watches know it."""

    @property
    def who(self) -> Who:
        """For whom permissions are checked."""

    def send_event(self, watch: "Watch", path: Path, cause: Outstanding | None) -> None:
        """Tells the client that `path` has changed; `cause`: the request that did it."""


@dataclass(eq=False, slots=True)
class Watch:
    """`hidden`: how many characters of an event's path the client does not see, since it gave a relative
    path."""

    watcher: Watcher
    path: Path
    token: bytes
    hidden: int
    serial: int = 0

    @property
    def footprint(self) -> int:
        """Bytes of `Quota.MEMORY`."""
        return len(self.path) + len(self.token)

    def payload(self, path: Path) -> bytes:
        """What WATCH_EVENT carries for a change at `path`."""
        return path[self.hidden :].encode("ascii") + b"\0" + self.token + b"\0"


class Watches:
    """All watches of all connections, found by path."""

    def __init__(self) -> None:
        self._at: dict[Path, dict[Watch, None]] = {}
        self._serial = 0

    def add(self, watch: Watch) -> None:
        """Enters a watch."""
        self._serial += 1
        watch.serial = self._serial
        self._at.setdefault(watch.path, {})[watch] = None

    def remove(self, watch: Watch) -> None:
        """Takes a watch out."""
        at = self._at[watch.path]
        del at[watch]
        if not at:
            del self._at[watch.path]

    def __len__(self) -> int:
        return sum(map(len, self._at.values()))

    def hit(self, path: Path, match: Match) -> list[Watch]:
        """The watches that an event reaches, in the order in which they were set."""
        reach = (path,) if match is Match.EXACT else self_and_ancestors(path)
        hit = [watch for at in reach if at in self._at for watch in self._at[at]]
        if len(hit) > 1:
            hit.sort(key=lambda watch: watch.serial)
        return hit

    def told(self, path: Path, match: Match, before: Changes, store: Store) -> list[Watch]:
        """Those of them whose watcher may know. `before`: what the change replaced; `store` is as it is
        now."""
        hit = self.hit(path, match)
        if not hit:
            return []
        nodes = [node for node in (before.get(path), store.get(path)) if node is not None]
        if not nodes:  # made and removed in one transaction: nothing has happened
            return []
        if not is_special(path):
            nodes += _parent(path, before, store)
        return [watch for watch in hit if any(may_read(node.perms, watch.watcher.who) for node in nodes)]


def _parent(path: Path, before: Mapping[Path, Node | None], store: Store) -> list[Node]:
    parent = store.get(parent_of(path)) or before.get(parent_of(path))
    return [parent] if parent else []
