"""The Python CPU is tested as its kernel uses it: with a real hypervisor, in one process."""

from tests.domains.kernel.conftest import domain, kernel, machine

__all__ = ["domain", "kernel", "machine"]
