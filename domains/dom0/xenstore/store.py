"""The tree as a flat map from path to immutable node, and the account of what each domain owns in it.

Invariants: the root and the special names always exist; the parent of every node exists and lists it; the
usage of every domain (`Quota.NODES`, `Quota.MEMORY`) is the sum over the nodes it owns. `check` recounts the
first two, `Xenstored.check` the third.

A flat map has no recursion to run out of stack (XSA-418), and makes an open transaction cost nothing: it is
an overlay over this map. The store enforces no permission and no quota: `tree` and `requests` have done so
before.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Final, NamedTuple, Protocol

from domains.dom0.xenstore.node import Node
from domains.dom0.xenstore.path import ROOT, SPECIALS, Path, child_of, is_special, leaf_of, parent_of
from domains.dom0.xenstore.perms import Access, Perm, owner_of, without
from domains.dom0.xenstore.quota import Quota, Usage
from hypervisor.public.types import DomId

CONTROL_DOMAIN: Final = DomId(0)
_INITIAL: Final = (ROOT, Path("/tool"), Path("/tool/xenstored"), *SPECIALS)

Changes = dict[Path, Node | None]
"""What a request or a commit does to the tree: the new node, or None for "gone"."""


class Match(Enum):
    """Which watches an event reaches: those on exactly this path, or those on its ancestors as well."""

    EXACT = 0
    SUBTREE = 1


class Plan(NamedTuple):
    """All that one request will do. It has been checked, and is applied as a whole (rule S3)."""

    changes: Changes
    events: dict[Path, Match]


class View(Protocol):
    """Where a request reads: the store, or a transaction over it."""

    def get(self, path: Path) -> Node | None:
        """The node, or None."""
        ...


class Charge(NamedTuple):
    """What changes cost one domain; negative is given back."""

    nodes: int
    memory: int


def footprint(path: Path, node: Node) -> int:
    """Bytes of `Quota.MEMORY` that a node costs its owner."""
    return len(path) + node.size


def cost(changes: Mapping[Path, Node | None], before: Callable[[Path], Node | None]) -> dict[DomId, Charge]:
    """What `changes` cost each domain, compared with the nodes that `before` knows."""
    charges: dict[DomId, Charge] = {}
    for path, new in changes.items():
        for node, sign in ((before(path), -1), (new, 1)):
            if node is not None:
                owner = owner_of(node.perms)
                nodes, memory = charges.get(owner, (0, 0))
                charges[owner] = Charge(nodes + sign, memory + sign * footprint(path, node))
    return charges


class Store:
    """`usage_of` gives the account of a domain, which it opens if there is none yet."""

    def __init__(self, usage_of: Callable[[DomId], Usage]) -> None:
        self._usage_of = usage_of
        self._nodes: dict[Path, Node] = {}
        self._generation = 0
        self.open_transactions = 0
        # Which nodes name a domain in their permissions, so that its death costs what it owned, not a full
        # walk. The control domain does not die and is not listed.
        self._naming: dict[DomId, dict[Path, None]] = {}
        perms = (Perm(CONTROL_DOMAIN, Access.NONE),)
        children = {
            parent_of(path): leaf_of(path) + b"\0" for path in _INITIAL if path != ROOT and path[0] == "/"
        }
        self.apply({path: Node(perms, children=children.get(path, b"")) for path in _INITIAL})

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, path: Path) -> Node | None:
        """The node, or None."""
        return self._nodes.get(path)

    def nodes(self) -> Iterator[tuple[Path, Node]]:
        """All nodes with their paths, in no order."""
        return iter(self._nodes.items())

    @property
    def generation(self) -> int:
        """That of the last change."""
        return self._generation

    def load(self, nodes: Mapping[Path, Node], generation: int) -> None:
        """Be a tree of these nodes, whose last change was `generation`, and of nothing else."""
        self.apply(dict.fromkeys(self._nodes))
        for path, node in nodes.items():
            self._nodes[path] = node
            self._account(path, node, 1)
        self._generation = generation

    def next_generation(self) -> int:
        """A number that no node has had yet."""
        self._generation += 1
        return self._generation

    def paths_naming(self, domid: DomId) -> list[Path]:
        """All nodes that `domid` owns or has a permission entry in; ancestors first."""
        return sorted(self._naming.get(domid, ()))

    def apply(self, changes: Mapping[Path, Node | None]) -> Changes:
        """Do all `changes`; returns what was there before. Cannot fail."""
        before: Changes = {}
        for path, new in changes.items():
            before[path] = old = self._nodes.pop(path, None) if new is None else self._nodes.get(path)
            if new is not None:
                self._nodes[path] = new.stamped(self.next_generation())
            self._account(path, old, -1)
            self._account(path, new, 1)
        return before

    def forget(self, path: Path, domid: DomId) -> None:
        """Take the entries of `domid`, which is gone, out of a node's permissions; what it owned is the control domain's.

        The generation stays: to everybody else the node is the same, and open transactions meet no conflict (as in
        Xen's tools/xenstored/domain.c).
        """
        node = self._nodes[path]
        self._account(path, node, -1)
        self._nodes[path] = new = node.with_perms(without(node.perms, domid, CONTROL_DOMAIN))
        self._account(path, new, 1)

    def _account(self, path: Path, node: Node | None, sign: int) -> None:
        if node is None:
            return
        usage = self._usage_of(owner_of(node.perms))
        usage.add(Quota.NODES, sign)
        usage.add(Quota.MEMORY, sign * footprint(path, node))
        for perm in node.perms:
            if perm.domid == CONTROL_DOMAIN:
                continue
            naming = self._naming.setdefault(perm.domid, {})
            if sign > 0:
                naming[path] = None
            else:
                naming.pop(path, None)
            if not naming:
                del self._naming[perm.domid]

    def owned(self) -> dict[DomId, Charge]:
        """Nodes and their memory per owner, counted afresh."""
        return cost(self._nodes, lambda _path: None)

    def check(self) -> list[str]:
        """What does not hold of the tree, in words. Empty for a sound one."""
        wrong = [f"{path} is missing" for path in (ROOT, *SPECIALS) if path not in self._nodes]
        listed: set[Path] = set()
        for path, node in self._nodes.items():
            children = [child_of(path, name) for name in node.names()]
            if len(set(children)) != len(children):
                wrong.append(f"{path} lists a child twice")
            wrong += [f"{path} lists {child}" for child in children if child not in self._nodes]
            listed.update(children)
        wrong += [
            f"{path} is not listed by its parent"
            for path in self._nodes
            if path != ROOT and not is_special(path) and path not in listed
        ]
        return wrong
