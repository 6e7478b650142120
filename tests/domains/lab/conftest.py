"""The laboratory's kernel is built by gcc."""

import shutil

import pytest

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/domains/lab" in str(item.path):
            item.add_marker(needs_gcc)
