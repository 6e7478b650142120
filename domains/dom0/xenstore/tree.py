"""READ, WRITE, MKDIR, RM and SET_PERMS on a view: whether the client may, and what exactly will change.

Nothing is changed here. Every function either raises or returns a `Plan`, which then can be applied as a
whole.

Permissions are those of the node alone: a domain may be let into a node whose parents are closed to it. But
what a refusal tells is decided by the nearest ancestor that exists: a client without a right there learns only
"denied", not whether the node exists (rule S1).
"""

from domains.dom0.xenstore import perms as permissions
from domains.dom0.xenstore.errors import (
    AccessDenied,
    InvalidRequest,
    NoSuchNode,
    OwnerChange,
    StoreError,
)
from domains.dom0.xenstore.node import Node
from domains.dom0.xenstore.path import ROOT, Path, child_of, leaf_of, parent_of
from domains.dom0.xenstore.perms import Access, Perms, Who, access_of, owner_of
from domains.dom0.xenstore.store import Changes, Match, Plan, View


def lookup(view: View, who: Who, path: Path, access: Access) -> Node:
    """The node at `path`, on which `who` has all of `access`. Raises NoSuchNode or AccessDenied."""
    node = view.get(path)
    if node is not None and access in access_of(node.perms, who):
        return node
    error: StoreError = NoSuchNode(path) if node is None else AccessDenied(path)
    ancestor, _missing = _nearest_ancestor(view, path)
    if access_of(ancestor.perms, who) & access:
        raise error
    raise AccessDenied(path)


def plan_write(view: View, who: Who, path: Path, value: bytes) -> Plan:
    """Set the value; create the node and its missing parents."""
    try:
        node = lookup(view, who, path, Access.WRITE)
    except NoSuchNode:
        return _plan_creation(view, who, path, value)
    return Plan({path: node.with_value(value)}, {path: Match.SUBTREE})


def plan_mkdir(view: View, who: Who, path: Path) -> Plan:
    """Create the node and its missing parents, unless it is there."""
    try:
        lookup(view, who, path, Access.WRITE)
    except NoSuchNode:
        return _plan_creation(view, who, path, b"")
    return Plan({}, {})


def plan_rm(view: View, who: Who, path: Path) -> Plan:
    """Remove the node and all below it. Not an error if it is not there, but its parent must be."""
    try:
        lookup(view, who, path, Access.WRITE)
    except NoSuchNode:
        if view.get(parent_of(path)) is None:
            raise
        return Plan({}, {})
    if path == ROOT:
        raise InvalidRequest("the root stays")
    return plan_removal(view, path)


def plan_removal(view: View, path: Path) -> Plan:
    """Remove the existing node at `path` and all below it, children before their parents."""
    doomed: list[Path] = []
    stack = [path]
    while stack:
        current = stack.pop()
        doomed.append(current)
        node = view.get(current)
        if node is not None:
            stack += [child_of(current, name) for name in node.names()]
    changes: Changes = {}
    events: dict[Path, Match] = {}
    for current in reversed(doomed):
        changes[current] = None
        events[current] = Match.SUBTREE if current == path else Match.EXACT
    parent = view.get(parent_of(path))
    if parent is not None:
        changes[parent_of(path)] = parent.without_child(leaf_of(path))
    return Plan(changes, events)


def plan_set_perms(view: View, who: Who, path: Path, perms: Perms) -> Plan:
    """Replace the permissions. Only the owner may, and only the control domain changes the owner (rule
    S1)."""
    node = lookup(view, who, path, Access.WRITE | Access.OWNER)
    if not who.privileged and owner_of(perms) != owner_of(node.perms):
        raise OwnerChange(path)
    return Plan({path: node.with_perms(perms)}, {path: Match.SUBTREE})


def _plan_creation(view: View, who: Who, path: Path, value: bytes) -> Plan:
    """New nodes have the permissions of their parent, but belong to the domain that creates them."""
    ancestor, missing = _nearest_ancestor(view, path)
    perms = ancestor.perms if who.privileged else permissions.with_owner(ancestor.perms, who.domid)
    top = missing[-1]
    changes: Changes = {parent_of(top): ancestor.with_child(leaf_of(top))}
    for child, new in reversed(list(zip([None, *missing], missing, strict=False))):
        children = b"" if child is None else leaf_of(child) + b"\0"
        changes[new] = Node(perms, value if new == path else b"", children)
    return Plan(changes, {path: Match.SUBTREE})


def _nearest_ancestor(view: View, path: Path) -> tuple[Node, list[Path]]:
    """The nearest node above `path` that exists, and the paths from `path` up to just below it."""
    missing = [path]
    while True:
        parent = parent_of(missing[-1])
        node = view.get(parent)
        if node is not None:
            return node, missing
        missing.append(parent)
