"""One node: immutable. A change makes a new node, so "has anyone changed it?" is the question whether it is
the same object, and a transaction may keep what it saw without copying."""

from dataclasses import dataclass, field, replace
from typing import Final

from domains.dom0.xenstore.perms import Perms

_HEADER_SIZE: Final = 16  # what Xen counts per node besides its contents
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
    generation: int = field(default=0)

    @property
    def size(self) -> int:
        """Bytes that quotas count (`node-size`, and with the path's length, `memory`)."""
        return _HEADER_SIZE + _PERM_SIZE * len(self.perms) + len(self.value) + len(self.children)

    def names(self) -> list[bytes]:
        return self.children.split(b"\0")[:-1]

    def with_value(self, value: bytes) -> "Node":
        return replace(self, value=value)

    def with_perms(self, perms: Perms) -> "Node":
        return replace(self, perms=perms)

    def with_child(self, name: bytes) -> "Node":
        return replace(self, children=self.children + name + b"\0")

    def without_child(self, name: bytes) -> "Node":
        return replace(self, children=b"".join(n + b"\0" for n in self.names() if n != name))

    def stamped(self, generation: int) -> "Node":
        return replace(self, generation=generation)
