"""Guests that break the network's rules, in processes of their own: their neighbours still talk, and nothing is left."""

import re
from pathlib import Path

import pytest

from domains.guests.netattack import ATTACKS
from tests.drivers.net.on_machine.stations import GUESTS
from tests.machines import Machine

ATTACKER = """
name = "{attack}"
kernel = "python:domains.guests.netattack:NetAttack"
memory = 8
vif = [""]
extra = "{attack}"
"""
GROUPS = [ATTACKS[at : at + 3] for at in range(0, len(ATTACKS), 3)]


@pytest.mark.parametrize("attacks", GROUPS, ids="-".join)
def test_neighbours_of_attackers_talk_as_ever(
    machine: Machine, tmp_path: Path, attacks: tuple[str, ...]
) -> None:
    assert machine.xenctl("create", GUESTS / "webserver.cfg").returncode == 0
    for attack in attacks:
        assert machine.create(tmp_path, ATTACKER.format(attack=attack)).returncode == 0
    done = machine.xenctl("create", "-c", GUESTS / "ping.cfg", "extra='10.0.0.1 10'", timeout=60)
    answered = re.search(r"(\d+) of 10 answered", done.stdout)
    assert answered, done.stdout + done.stderr
    assert int(answered[1]) >= 8
    domains = machine.domains()
    assert {name for name in attacks if domains[name]["shutdown"] is None} == set(attacks)
