import pytest

from tests.domains.cpu.x86.bench import Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()
