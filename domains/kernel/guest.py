"""What a guest is to its author: a class with a `main`.

    class Hello(Guest):
        def main(self) -> None:
            print("hello from", self.kernel.domid)

`main` starts with memory, console, xenbus, events and grants ready. `print` writes to the guest's console
and `input` reads from it. When `main` returns the domain powers off; when it raises, the traceback goes to
the console and the domain has crashed.
"""

from __future__ import annotations

from domains.kernel.kernel import Kernel


class Guest:
    """Base of every Python guest: it gets its kernel and runs `main` in kernel mode on vCPU 0."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def main(self) -> None:
        """The guest's program; waits with `self.kernel.wait`, and with nothing else."""
        raise NotImplementedError
