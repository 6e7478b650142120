"""The house of granting domains as a fixture."""

from collections.abc import Iterator

import pytest

from tests.hypervisor.grants.granting import GrantingDomains, granting_domains


@pytest.fixture
def house() -> Iterator[GrantingDomains]:
    """Dom0 and two domains; recounted after every hypercall and when the test ends, and no frame is lost."""
    with granting_domains() as house:
        yield house
