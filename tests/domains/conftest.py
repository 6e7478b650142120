"""A machine that the tests of one module share; each must leave it as it found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from domains.control.address import MachineAddress
from domains.control.client import ControlClient
from domains.control.operations import Destroy, Info, List, XenstoreLs
from tests.machines import Machine, pids_of, wait_until

LEFTOVERS = ("/local/domain/1", "/libxl/", "/vm/", "/console/1", "/vbd/1", "/vif/1")


@pytest.fixture(scope="module")
def lasting_machine() -> Iterator[Machine]:
    machine = Machine()
    try:
        yield machine
    finally:
        machine.stop()


@pytest.fixture
def shared_machine(lasting_machine: Machine) -> Iterator[Machine]:
    """At the end of the test nothing of its domains is left: no frame, no process, no node."""
    yield lasting_machine
    with ControlClient(MachineAddress.in_folder(lasting_machine.folder)) as client:
        try:
            wait_until(lambda: census_is_clean(lasting_machine, client), 10, "a clean census")
        finally:
            for about in client.call(List()):
                if about.domid:
                    client.call(Destroy(str(about.domid)))
        paths = [node.path for node in client.call(XenstoreLs())]
    assert not [path for path in paths if any(part in path for part in LEFTOVERS)]


def census_is_clean(machine: Machine, client: ControlClient) -> bool:
    """As `Machine.census_is_clean`, without a process for each question."""
    info = client.call(Info())
    if info.domains != 1 or info.free_frames != machine.free_frames:
        return False
    return sorted(pids_of(machine.supervisor)) == sorted(machine.pids)
