"""A bench for every test, recounted after it."""

from collections.abc import Iterator

import pytest

from tests.domains.dom0.xenstore.client import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.check()
