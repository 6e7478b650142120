"""Every experiment bears out what it claims; what exactly it counts is in the file of its own name."""

from pathlib import Path

import pytest

from domains.lab import experiments
from domains.lab.catalogue import NAMES, experiment
from domains.lab.costs import load_costs


def test_every_file_is_in_the_catalogue() -> None:
    files = {path.stem.replace("_", "-") for path in Path(experiments.__path__[0]).glob("[a-z]*.py")}
    assert files == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_its_claims_hold(name: str) -> None:
    chosen = experiment(name)
    report = chosen.run(load_costs(machine=chosen.cpu))
    assert report.claims
    assert [claim.text for claim in report.claims if not claim.holds] == []
