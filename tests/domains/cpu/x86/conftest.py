import pytest

from tests.domains.cpu.x86.bench import Bench
from tests.domains.cpu.x86.hvm_bench import HvmBench


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def hvm() -> HvmBench:
    return HvmBench()
