"""Permissions of a node: a list of (domid, access), the first of which names the owner.

    n5 r7 b9      owner 5; everybody else may do nothing ("n"), except that 7 may read and 9 may do both

The access letter of the first entry is what everybody gets who has no entry of his own; the owner and the
control domain always have all rights (docs/misc/xenstore.txt; rule S1).

An entry for a domain that did not exist when it was set is kept and shown, but `ignored` for good: a domid is
used again, and the next bearer must not inherit rights that were meant for nobody (rule S1, XSA-322).
"""

import re
from collections.abc import Sequence
from enum import IntFlag
from typing import Final, NamedTuple

from domains.dom0.xenstore.errors import InvalidRequest
from hypervisor.public.types import DomId


class Access(IntFlag):
    """What an entry allows."""

    NONE = 0
    READ = 1
    WRITE = 2
    OWNER = 4


_ALL: Final = Access.READ | Access.WRITE | Access.OWNER
_LETTERS: Final = {
    b"n": Access.NONE,
    b"r": Access.READ,
    b"w": Access.WRITE,
    b"b": Access.READ | Access.WRITE,
}
_LETTER_OF: Final = {access: letter for letter, access in _LETTERS.items()}
_ENTRY: Final = re.compile(rb"([nrwb])([0-9]{1,5})")
_DOMID_MAX: Final = 0xFFFF


class Perm(NamedTuple):
    """One entry. `ignored`: the domain did not exist when the entry was set."""

    domid: DomId
    access: Access
    ignored: bool = False


Perms = tuple[Perm, ...]


class Who(NamedTuple):
    """In whose name a request is judged. `target`: the domain that a device model may act for
    (SET_TARGET)."""

    domid: DomId
    privileged: bool
    target: DomId | None = None

    def is_(self, domid: DomId) -> bool:
        """Whether it acts as this domain: as itself, or for its target."""
        return domid in (self.domid, self.target)


def parse(entries: Sequence[bytes]) -> Perms:
    """Entries such as b"r5" into permissions. Raises InvalidRequest."""
    perms = []
    for entry in entries:
        match = _ENTRY.fullmatch(entry)
        if not match or int(match[2]) > _DOMID_MAX:
            raise InvalidRequest("permission")
        perms.append(Perm(DomId(int(match[2])), _LETTERS[match[1]]))
    if not perms:
        raise InvalidRequest("no permissions")
    return tuple(perms)


def format_perms(perms: Perms) -> bytes:
    """As GET_PERMS shows them: nul-terminated entries."""
    return b"".join(b"%s%d\0" % (_LETTER_OF[perm.access], perm.domid) for perm in perms)


def owner_of(perms: Perms) -> DomId:
    """The domain that owns the node, and pays for it."""
    return perms[0].domid


def names(perms: Perms, domid: DomId) -> bool:
    """Whether an entry is that domain's."""
    return any(perm.domid == domid for perm in perms)


def with_owner(perms: Perms, domid: DomId) -> Perms:
    """The same list, owned by `domid`: what a domain creates is its own."""
    return (Perm(domid, perms[0].access), *perms[1:])


def without(perms: Perms, domid: DomId, heir: DomId) -> Perms:
    """The same list without the entries of `domid`; what it owned is the `heir`'s."""
    owner = perms[0]._replace(domid=heir) if perms[0].domid == domid else perms[0]
    return (owner, *(perm for perm in perms[1:] if perm.domid != domid))


def access_of(perms: Perms, who: Who) -> Access:
    """All that `who` may do with a node that has these permissions (rule S1)."""
    if who.privileged or who.is_(perms[0].domid):
        return _ALL
    for perm in perms[1:]:
        if not perm.ignored and who.is_(perm.domid):
            return perm.access
    return perms[0].access


def may_read(perms: Perms, who: Who) -> bool:
    """Whether `who` may read the node."""
    return Access.READ in access_of(perms, who)
