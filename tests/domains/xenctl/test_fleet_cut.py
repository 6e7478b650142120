"""A host that is cut off from the network stops its domains before they start elsewhere, and a host that is killed loses them
to others.

Three hosts in network namespaces of their own on a bridge in the head's; nobody's network is touched. The log of each side has
one clock (CLOCK_BOOTTIME), so that what came first is read, not measured.

Control: with the wait of the head cut to nothing (Terms.margin, the simulation's control in tests/domains/fleet) a domain runs
twice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from domains.xenctl.fleet.place import folder_of_fleet
from tests.domains.xenctl.fleet_lan import HEAD, Lan, lan_of
from tests.domains.xenctl.fleets import FleetOfTests, kill
from tests.machines import REPOSITORY, wait_until

SHOP = (REPOSITORY / "docs" / "examples" / "shop.yaml").read_text()

pytestmark = pytest.mark.needs_iproute2


@pytest.fixture
def lan() -> Iterator[Lan]:
    with lan_of("abc") as lan:
        yield lan


def when(log: Path, text: str) -> float:
    """The clock of the last line that has this text."""
    found = re.findall(rf"^([\d.]+) .*{text}", log.read_text(), re.MULTILINE)
    assert found, log.read_text()
    return float(found[-1])


def test_a_shop_survives_the_loss_of_its_hosts(lan: Lan, tmp_path: Path) -> None:
    rest = f"address: {HEAD}\nlease: {{lasts: 2s, renew: 400ms, margin: 1500ms}}\n"
    fleet = FleetOfTests(tmp_path, lan.hosts_text(256), rest, SHOP)
    fleet.under = lan.enter
    try:
        fleet.succeeds("up")
        states = Counter(one["state"] for one in fleet.status()["domains"])
        assert states == {"ready": 11, "done": 9}  # a customer that is done has fetched its page
        assert set(fleet.places().values()) == {"a", "b", "c"}
        is_cut_off(fleet, lan)
        is_killed(fleet)
    finally:
        fleet.down("a", "b", "c")


def is_cut_off(fleet: FleetOfTests, lan: Lan) -> None:
    host = fleet.places()["office"] or ""
    lan.cut(host)
    wait_until(lambda: ready_without(fleet, host), 15, "the start of all domains elsewhere")
    folder = folder_of_fleet(fleet.name)
    stopped = when(folder / f"{host}.log", "has stopped .* domains: office")
    started = when(folder / "log", "office starts on")
    assert stopped < started
    assert fleet.listed(host) == set()
    all_pages_are_fetched(fleet, "ab".replace(host, "c")[0])
    lan.join(host)
    wait_until(
        lambda: [one["state"] for one in fleet.status()["hosts"]] == ["up"] * 3, 20, "the host's return"
    )
    fleet.succeeds("migrate", "office", host)
    assert fleet.places()["office"] == host


def is_killed(fleet: FleetOfTests) -> None:
    """Its agent, with no time to say anything."""
    host = fleet.places()["web-1"] or ""
    kill(fleet.pid_of(host))
    wait_until(lambda: ready_without(fleet, host), 15, "the start of all domains elsewhere")
    all_pages_are_fetched(fleet, "ab".replace(host, "c")[0])


def ready_without(fleet: FleetOfTests, host: str) -> bool:
    """Whether all servers are ready, and none on this host."""
    places = fleet.places()
    return len(places) == 11 and host not in places.values()


def all_pages_are_fetched(fleet: FleetOfTests, host: str) -> None:
    """By a client on this host, of all six web servers."""
    said = fleet.fetches(host, *(f"http://10.0.0.{number}/" for number in range(1, 7)))
    assert said.count("200 OK") == 6, said
