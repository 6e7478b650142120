"""Lists of CPUs in xl's grammar, the keys of descriptions that have them, and how many vCPUs a guest may have."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.control.cpus import MAX_CPUS, mask_of, numbers, shown
from domains.control.description import DomainConfig
from domains.dom0.toolstack.xlcfg.load import read_config
from domains.dom0.toolstack.xlcfg.syntax import ConfigError

PV = 'name = "a"\nkernel = "k"\n'


def read(text: str, head: str = PV) -> DomainConfig:
    return read_config(head + text, "a.cfg", Path("/etc/xen"))


@pytest.mark.parametrize(
    ("text", "cpus", "printed"),
    [
        ("all", {0, 1, 2, 3, 4, 5}, "all"),
        ("0-3,5,^1", {0, 2, 3, 5}, "0,2-3,5"),
        ("all,^5", {0, 1, 2, 3, 4}, "0-4"),
        ("^1,0-2", {0, 1, 2}, "0-2"),
        ("2,^2", set(), "none"),
        ("", set(), "none"),
        ("3-70,900000000", {3, 4, 5}, "3-5"),
        ("node:0,^2", {0, 1, 3, 4, 5}, "0-1,3-5"),
        ("nodes:0-3", {0, 1, 2, 3, 4, 5}, "all"),
        ("1,node:1", {1}, "1"),
        ("nodes:all,^nodes:0,4", {4}, "4"),
        (",1,,3,", {1, 3}, "1,3"),
    ],
)
def test_a_list_is_read_and_shown_as_xl_does(text: str, cpus: set[int], printed: str) -> None:
    mask = mask_of(text, 6)
    assert set(numbers(mask)) == cpus
    assert shown(mask, 6) == printed


@pytest.mark.parametrize(
    "text", ["x", "1-", "-1", "3-2", "^all", "^", "1 ,2", "node:", "0x1", "1.5", "²", "9" * 30]
)
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"'"):
        mask_of(text)


@given(st.integers(0, (1 << MAX_CPUS) - 1), st.integers(1, MAX_CPUS))
def test_what_is_shown_is_read_back(mask: int, nr_cpus: int) -> None:
    here = mask & (1 << nr_cpus) - 1
    text = shown(mask, nr_cpus)
    assert mask_of("" if text == "none" else text, nr_cpus) == here


def test_one_string_is_for_every_vcpu_and_a_list_has_one_each() -> None:
    config = read('vcpus = 2\nmaxvcpus = 3\ncpus = "0-3,^1"\ncpus_soft = ["2", "all"]')
    assert config.cpus == ("0-3,^1",) * 3
    assert config.cpus_soft == ("2", "all")
    assert read('cpus = ["1", "2", "3"]').cpus == ("1",), "CPUs of vCPUs that there are not are passed over"
    assert (read("").cpus, read("").pool) == ((), None)


def test_parameters_of_schedulers_are_read() -> None:
    config = read('pool = "fast"\ncpu_weight = 512\ncap = 250\nperiod = 10000\nextratime = 0')
    assert (config.pool, config.cpu_weight, config.cap) == ("fast", 512, 250)
    assert (config.period, config.extratime) == (10_000, False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("vcpus = 33", "vcpus must lie between 1 and 32, not at 33"),
        ("maxvcpus = 33", "maxvcpus must lie between 1 and 32, not at 33"),
        ("vcpus = 3\nmaxvcpus = 2", "maxvcpus 2 is less than vcpus 3"),
        ('type = "pvh"\nvcpus = 2', "a guest of type 'pvh' has 1 vCPU, not 2"),
        ('type = "pvh"\nmaxvcpus = 4', "a guest of type 'pvh' has 1 vCPU, not 4"),
        ('kernel = "python:a.b:C"\nvcpus = 2', "a Python guest has 1 vCPU, not 2"),
        ('cpus = "0-"', "cpus: '0-' is no range"),
        ('cpus_soft = ["1", "^all"]', "cpus_soft: '^' and 'all'"),
        ('cpus = [["1"]]', "cpus is a list of strings, not of lists"),
        ("cpu_weight = 0", "cpu_weight must lie between 1 and 65535"),
        ("cap = 3201", "cap must lie between 0 and 3200"),
    ],
)
def test_what_cannot_be_is_named_with_its_place(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(text)
    assert says in str(refused.value)
    assert str(refused.value).startswith("a.cfg:")
    with pytest.raises(ValueError, match=r"has 1 vCPU, not 2"):
        DomainConfig(name="a", kernel="python:a.b:C", vcpus=2, maxvcpus=2)


def test_a_pv_guest_of_machine_code_may_have_32_vcpus() -> None:
    assert read("vcpus = 32").maxvcpus == 32
