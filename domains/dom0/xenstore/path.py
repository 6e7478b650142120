"""Names and paths: which are valid, who is whose parent (docs/misc/xenstore.txt, "Paths are /-separated").

A `Path` is absolute and checked: "/", "/a/b", or a special name such as "@releaseDomain" that stands outside
the tree. Only `parse` makes one from a client's bytes; everything behind it can rely on the form.
"""

import re
from collections.abc import Iterator
from typing import Final, NewType

from domains.dom0.xenstore.errors import InvalidRequest
from hypervisor.public.io.xs_wire import XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX
from hypervisor.public.types import DomId

Path = NewType("Path", str)

ROOT: Final = Path("/")
INTRODUCE_DOMAIN: Final = Path("@introduceDomain")
RELEASE_DOMAIN: Final = Path("@releaseDomain")
SPECIALS: Final = (INTRODUCE_DOMAIN, RELEASE_DOMAIN)

_VALID: Final = re.compile(rb"[A-Za-z0-9\-/_@]+")
_LOCAL_DOMAIN: Final = re.compile(r"/local/domain/[0-9]{1,5}/")


def home(domid: DomId) -> Path:
    """`/local/domain/<domid>`: what a domain's relative paths start from."""
    return Path(f"/local/domain/{domid}")


def parse(raw: bytes, base: Path, allow_special: bool = False) -> Path:
    """The absolute path that a client means by `raw`; `base` is where relative paths start.

    Raises InvalidRequest for a bad character, an empty path, a doubled or trailing slash, and for more than
    XENSTORE_ABS_PATH_MAX bytes, or XENSTORE_REL_PATH_MAX in a relative path (rule S4).
    """
    if not _VALID.fullmatch(raw):
        raise InvalidRequest("character")
    name = raw.decode("ascii")
    if name[0] == "@":
        if not allow_special:
            raise InvalidRequest("special path")
    elif name[0] != "/":
        if len(name) > XENSTORE_REL_PATH_MAX:
            raise InvalidRequest("relative path too long")
        name = f"{base}/{name}"
    if len(name) > XENSTORE_ABS_PATH_MAX or "//" in name or (name[-1] == "/" and name != ROOT):
        raise InvalidRequest("path")
    return Path(name)


def is_relative(raw: bytes) -> bool:
    """Whether the name begins in the client's own directory."""
    return raw[:1] not in (b"/", b"@")


def is_special(path: Path) -> bool:
    """Whether it is @introduceDomain or @releaseDomain."""
    return path[0] == "@"


def quota_length(path: Path) -> int:
    """What the `path-max` quota counts: as Xen does, without a leading `/local/domain/<domid>/`."""
    match = _LOCAL_DOMAIN.match(path)
    return len(path) - (match.end() if match else 0)


def parent_of(path: Path) -> Path:
    """The parent; the root is its own parent, and that of the special names too."""
    end = path.rfind("/")
    return Path(path[:end]) if end > 0 else ROOT


def leaf_of(path: Path) -> bytes:
    """The last component, as a parent lists it."""
    return path[path.rfind("/") + 1 :].encode("ascii")


def child_of(path: Path, leaf: bytes) -> Path:
    """The path of a child."""
    name = leaf.decode("ascii")
    return Path(f"/{name}" if path == ROOT else f"{path}/{name}")


def self_and_ancestors(path: Path) -> Iterator[Path]:
    """The path, its parent, and so on up to the root. A special name is under nothing but itself."""
    yield path
    if path == ROOT or is_special(path):
        return
    end = path.rfind("/")
    while end > 0:
        yield Path(path[:end])
        end = path.rfind("/", 0, end)
    yield ROOT
