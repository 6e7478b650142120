"""Requests to xenstore as calls that wait: for straight-line code. Each is the task of the same name, driven to its end."""

from __future__ import annotations

from typing import Protocol, TypeVar

from domains.kernel.store_tasks import StoreTasks
from domains.kernel.tasks import Task
from hypervisor.public.io.xs_wire import XenstoreMessage

T = TypeVar("T")


class Run(Protocol):
    """`Kernel.run`."""

    def __call__(self, task: Task[T]) -> T:
        """Drive a task to its end, waiting whenever it pauses."""


class StoreCalls:
    """What can be asked inside a transaction and outside. All of it raises XenError."""

    def __init__(self, tasks: StoreTasks, run: Run) -> None:
        self._tasks = tasks
        self._run = run

    def request(self, kind: XenstoreMessage, *parts: str | bytes) -> bytes:
        """Send one message, its parts NUL-terminated (but bytes as they are), and wait for its answer."""
        return self._run(self._tasks.request(kind, *parts))

    def read(self, path: str) -> str:
        """The node's value; XenError(ENOENT)."""
        return self._run(self._tasks.read(path))

    def read_bytes(self, path: str) -> bytes:
        """The node's value as it lies in the store."""
        return self._run(self._tasks.read_bytes(path))

    def write(self, path: str, value: str | bytes) -> None:
        """Set the node's value; missing parents are made."""
        self._run(self._tasks.write(path, value))

    def mkdir(self, path: str) -> None:
        """Make the node if it does not exist."""
        self._run(self._tasks.mkdir(path))

    def rm(self, path: str) -> None:
        """Remove the node and what is below it; XenError(ENOENT) only if its parent does not exist."""
        self._run(self._tasks.rm(path))

    def exists(self, path: str) -> bool:
        """Whether the node is there for this domain to read."""
        return self._run(self._tasks.exists(path))

    def directory(self, path: str) -> list[str]:
        """Names of the node's children; a list too long for one message is fetched in parts."""
        return self._run(self._tasks.directory(path))

    def get_permissions(self, path: str) -> list[str]:
        """Entries such as "n0", "r5": owner and default first."""
        return self._run(self._tasks.get_permissions(path))

    def set_permissions(self, path: str, permissions: list[str]) -> None:
        """Replace the node's permissions."""
        self._run(self._tasks.set_permissions(path, permissions))
