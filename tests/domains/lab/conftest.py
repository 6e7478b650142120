"""The laboratory's kernel is built by gcc. Most of its tests run experiments, each for a second or more."""

import shutil

import pytest

QUICK = ("test_costs.py", "test_page_fault.py")
"""Those that `scripts/test --fast` takes: the file of costs, and one experiment."""

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/domains/lab" in str(item.path):
            item.add_marker(needs_gcc)
            if item.path.name not in QUICK:
                item.add_marker(pytest.mark.slow)
