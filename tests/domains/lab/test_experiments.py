"""Every experiment bears out what it claims; what exactly it counts is in the file of its own name."""

import pytest

from domains.lab.catalogue import NAMES, experiment
from domains.lab.costs import load_costs


@pytest.mark.parametrize("name", NAMES)
def test_its_claims_hold(name: str) -> None:
    chosen = experiment(name)
    report = chosen.run(load_costs(machine=chosen.cpu))
    assert report.claims
    assert [claim.text for claim in report.claims if not claim.holds] == []
