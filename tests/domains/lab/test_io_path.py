"""io-path: exact counts. Negative control: where no packet waits for another, the third stage is the second; two claims fail."""

from functools import cache

import pytest

from domains.lab.compare import Measured, measure
from domains.lab.experiments import io_path
from domains.lab.experiments.io_path import (
    BLOCK,
    beside,
    calls_of_dom0,
    claims_of_stages,
    copies,
    domain_switches,
    notifications,
    stage,
    switches,
)
from domains.lab.systems import world_switch
from domains.lab.systems.world_switch import Policy


@cache
def block(name: str) -> Measured:
    return measure(name, BLOCK)


@cache
def staged(policy: Policy) -> tuple[Measured, tuple[int, int]]:
    return stage(policy)


def test_a_block_by_ring_grant_and_event() -> None:
    xen = block("xen")
    assert xen.part.names == {
        "hypercall event_channel_op send": 1,
        "hypercall sched_op block": 1,
        "hypercall iret": 1,
    }
    assert xen.part.beside == {
        ("Dom0", "is woken"): 1,
        ("Dom0", "grant_table_op map_grant_ref"): 1,
        ("Dom0", "grant_table_op unmap_grant_ref"): 1,
        ("Dom0", "event_channel_op send"): 1,
        ("Dom0", "transfer to or from the disk"): 1,
        ("Dom0", "sched_op block"): 1,
    }
    assert xen.part.moved["Dom0", "transfer to or from the disk"] == 4096
    assert (calls_of_dom0(xen), domain_switches(xen), notifications(xen), copies(xen)) == (
        4,
        2,
        (1, 1),
        (0, 0),
    )


def test_a_block_by_the_world_switch() -> None:
    one = block("workstation")
    assert [step.text for step in one.part.steps if step.who == "host"] == [
        "pwrite",
        "world switch to the monitor",
    ]
    assert (switches(one), copies(one)) == (2, (1, 4096))
    assert one.memory == block("xen").memory


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Policy.EACH_ACCESS, (72, (24, 24))),
        (Policy.TRANSMIT, (12, (24, 6))),
        (Policy.COMBINE, (4, (16, 2))),
    ],
)
def test_stages(policy: Policy, expected: tuple[int, tuple[int, int]]) -> None:
    measured, accesses = staged(policy)
    assert (switches(measured), accesses) == expected


def test_requests_that_wait_in_the_ring() -> None:
    at_once, waiting = beside(one_cpu=False), beside(one_cpu=True)
    assert (domain_switches(at_once), notifications(at_once), calls_of_dom0(at_once)) == (12, (6, 6), 18)
    assert (domain_switches(waiting), notifications(waiting), calls_of_dom0(waiting)) == (2, (1, 1), 3)
    assert copies(at_once) == copies(waiting) == (6, 384)
    assert at_once.memory == waiting.memory


def test_where_no_packet_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_switch, "COMBINED", 1)
    stages = {policy: staged(policy) for policy in Policy} | {Policy.COMBINE: io_path.stage(Policy.COMBINE)}
    assert [claim.holds for claim in claims_of_stages(stages)] == [False, True, False, True, True]
