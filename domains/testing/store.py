"""xenstore, as a test reads and writes it: with the machine's own rights, as Xen's xenstore-read and xenstore-write in Dom0.

domain.store["data/mood"]            relative to the guest's part, /local/domain/<domid>
machine.store["/local/domain/0"]     from the root
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from domains.control.operations import StoreNode, XenstoreLs
from domains.control.protocol import ControlError, MachineEnded
from domains.testing.asking import Ask

LOOK: Final = 0.02
"""Seconds between two looks at a node that is waited for."""
PATIENCE: Final = 10.0
"""Seconds that the store may take to answer."""


class Store:
    """What is below `home`."""

    def __init__(self, ask: Ask, socket_path: Path, home: Callable[[], str], timeout: float) -> None:
        """`timeout`: seconds that `wait_for` waits if it is not told."""
        self._ask = ask
        self._socket = socket_path
        self._home = home
        self._timeout = timeout

    def __getitem__(self, path: str) -> str:
        """The value of a node. KeyError: there is none."""
        return self._nodes(path)[0].value.decode("utf-8", "replace")

    def __setitem__(self, path: str, value: str) -> None:
        """Write a node. OSError: the store refuses."""
        from hypervisor.public.io.xs_wire import XS_ERROR, XS_WRITE, xsd_sockmsg

        body = self._absolute(path).encode() + b"\0" + value.encode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self._socket))
            connection.sendall(xsd_sockmsg(type=XS_WRITE, len=len(body)).pack() + body)
            with connection.makefile("rb") as answers:
                header = xsd_sockmsg.unpack(answers.read(xsd_sockmsg.sizeof))
                said = answers.read(header.len)
        if header.type == XS_ERROR:
            why = said.rstrip(b"\0").decode("ascii", "replace")
            raise OSError(f"xenstore refuses to write {path}: {why}")

    def __contains__(self, path: str) -> bool:
        return self.get(path) is not None

    def get(self, path: str, default: str | None = None) -> str | None:
        """The value of a node, or `default`."""
        try:
            return self[path]
        except KeyError:
            return default

    def tree(self, path: str = "") -> dict[str, str]:
        """A node and all below it, by whole paths; nothing if there is no such node."""
        try:
            return {node.path: node.value.decode("utf-8", "replace") for node in self._nodes(path)}
        except KeyError:
            return {}

    def wait_for(self, path: str, value: str | None = None, timeout: float | None = None) -> str:
        """Wait until a node has this value, or any; the value. AssertionError after `timeout` seconds."""
        __tracebackhide__ = True
        limit = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        while (found := self.get(path)) is None or value not in (None, found):
            if time.monotonic() > deadline:
                wanted = "there" if value is None else f"'{value}'"
                raise AssertionError(f"xenstore: {path} was not {wanted} within {limit:g} s, but {found!r}")
            time.sleep(LOOK)
        return found

    def _absolute(self, path: str) -> str:
        return path if path.startswith("/") else f"{self._home()}/{path}".rstrip("/") or "/"

    def _nodes(self, path: str) -> tuple[StoreNode, ...]:
        try:
            return self._ask(XenstoreLs(self._absolute(path)))
        except MachineEnded:
            raise
        except ControlError as refused:
            raise KeyError(f"{self._absolute(path)}: {refused.message}") from None
