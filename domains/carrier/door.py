"""Where a machine listens for others."""

from __future__ import annotations

from typing import NamedTuple


class Door(NamedTuple):
    """A listening socket, and where it is bound to: HOST:PORT."""

    fd: int
    place: str
