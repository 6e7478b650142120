"""One node: immutable. A change makes a new node, so "has anyone changed it?" is the question whether it is
the same object, and a transaction may keep what it saw without copying."""

from dataclasses import dataclass
from typing import Final

from domains.dom0.xenstore.perms import Perms

_HEADER_SIZE: Final = 24  # struct xs_tdb_record_hdr, which Xen counts per node besides its contents
_PERM_SIZE: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """`children`: the names of the children, each followed by a nul, in order of creation: as DIRECTORY shows
    them.

    `generation` is new with every change, also of the list of children (DIRECTORY_PART).
    """

    perms: Perms
    value: bytes = b""
    children: bytes = b""
    generation: int = 0

    @property
    def size(self) -> int:
        """Bytes that quotas count (`node-size`, and with the path's length, `memory`)."""
        return _HEADER_SIZE + _PERM_SIZE * len(self.perms) + len(self.value) + len(self.children)

    def names(self) -> list[bytes]:
        """The names of the children."""
        return self.children.split(b"\0")[:-1]

    def with_value(self, value: bytes) -> "Node":
        """With another value."""
        return Node(self.perms, value, self.children, self.generation)

    def with_perms(self, perms: Perms) -> "Node":
        """With other permissions."""
        return Node(perms, self.value, self.children, self.generation)

    def with_child(self, name: bytes) -> "Node":
        """With one more child, which it does not have."""
        return self._with_children(self.children + name + b"\0")

    def without_child(self, name: bytes) -> "Node":
        """Without the child `name`. One search and one copy: a node may have tens of thousands of children.

        A transaction may ask this of a node that does not list the child: it looked at the parent before
        somebody else created the child. It is to end in a conflict, and sees the parent as it saw it before.
        """
        entry = name + b"\0"
        at = 0 if self.children.startswith(entry) else self.children.find(b"\0" + entry) + 1
        if not self.children.startswith(entry, at):
            return self
        return self._with_children(self.children[:at] + self.children[at + len(entry) :])

    def stamped(self, generation: int) -> "Node":
        """As the store keeps it: changed last at `generation`."""
        return Node(self.perms, self.value, self.children, generation)

    def _with_children(self, children: bytes) -> "Node":
        return Node(self.perms, self.value, children, self.generation)
