"""A hypervisor in this process, and kernels in it."""

from collections.abc import Iterator

import pytest

from domains.kernel.kernel import Kernel
from tests.domains.kernel.one_process import PythonDomain
from tests.inprocess import InProcess, hypervisor_in_process


@pytest.fixture
def machine() -> Iterator[InProcess]:
    with hypervisor_in_process() as machine:
        yield machine


@pytest.fixture
def domain(machine: InProcess) -> PythonDomain:
    return PythonDomain(machine)


@pytest.fixture
def kernel(domain: PythonDomain) -> Kernel:
    return domain.boot()
