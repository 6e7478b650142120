"""Our declarations are Xen's ABI: compared with the recorded table, and that with the headers."""

from enum import Enum

import pytest

from tests.hypervisor.public import abi


@pytest.mark.parametrize("part", ["structures", "numbers", "texts"])
def test_declarations_are_those_of_the_recorded_table(part: str) -> None:
    assert abi.declared()[part] == abi.recorded()[part]


@pytest.mark.needs_headers
@pytest.mark.skipif(not abi.MEASURABLE, reason="libxen-dev is not installed")
@pytest.mark.parametrize("part", ["structures", "numbers", "texts"])
def test_recorded_table_is_what_the_c_compiler_says_of_the_headers(part: str) -> None:
    assert abi.measured()[part] == abi.recorded()[part]


def test_every_number_of_a_family_has_its_own_name_at_module_level() -> None:
    wrong = [
        f"{name}.{member}"
        for name, module in abi.modules()
        for family in vars(module).values()
        if isinstance(family, type) and issubclass(family, Enum) and family not in abi.PREFIX
        for member, value in family.__members__.items()
        if family.__module__ == module.__name__ and getattr(module, member, None) is not value
    ]
    assert wrong == []


def test_no_two_modules_declare_the_same_name() -> None:
    names = [c.__name__ for c in abi.own(object)]
    assert sorted(names) == sorted(set(names))
