"""Devices in driver domains: plugged in while their driver domain is there, and again until a slow front end has noticed."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest

from domains.control.description import DomainConfig, Vif
from domains.dom0.toolstack.backends import Backends
from domains.dom0.toolstack.domains import Domains, Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.operations import Operations
from domains.dom0.toolstack.xenctrl import XenCtrl
from hypervisor.public.errno import XenError
from hypervisor.public.types import DomId
from tests.domains.kernel.one_process import PythonDomain
from tests.domains.kernel.two_domains import TwoDomains
from tests.inprocess import InProcess, hypervisor_in_process

NOTICE = 0.05
SECONDS = 10


class Toolstack:
    """A toolstack, a driver domain and a guest of which the store knows no more than that they exist."""

    def __init__(self, machine: InProcess, notice: float) -> None:
        self.both = TwoDomains(machine)
        self.control = self.both.control
        self.xenbus = self.both.store
        self.domains = Domains(XenCtrl(self.control), self.xenbus)
        self.operations = Operations(self.control)
        self.backends = Backends(self.xenbus, self.domains, self.operations, notice)
        self.driver = self.record(
            PythonDomain(machine).gate.domid, DomainConfig("netdom", "k", driver_domain=True)
        )
        vif = Vif(mac="00:16:3e:00:00:01", backend="netdom")
        self.guest = self.record(self.both.domid, DomainConfig("guest", "k", vifs=(vif,)))
        self.front = f"/local/domain/{self.guest.domid}/device/vif/0"
        self.back = f"/local/domain/{self.driver.domid}/backend/vif/{self.guest.domid}/0"

    def record(self, domid: int, config: DomainConfig) -> Record:
        record = Record(DomId(domid), config, uuid4(), 0)
        self.domains.records[record.domid] = record
        self.xenbus.write(f"/local/domain/{domid}/name", config.name)
        return record

    def read(self, path: str) -> str | None:
        try:
            return self.xenbus.read(path)
        except XenError:
            return None

    def switch(self, path: str, state: str) -> None:
        """As an end of a device does: never into a directory that is gone."""
        if self.read(f"{path}/state") is not None:
            self.xenbus.write(f"{path}/state", state)

    def until(self, path: str, value: str | None) -> None:
        """Let Dom0 run until a node holds `value`; None: until it is gone."""
        assert self.control.wait(lambda: self.read(path) == value, SECONDS), f"{path} is {self.read(path)}"

    def starts_again(self) -> None:
        """The driver domain is gone, and there again."""
        self.control.run(self.backends.ended(self.driver.domid))
        self.backends.started(self.driver)


@contextmanager
def started(notice: float) -> Iterator[Toolstack]:
    with hypervisor_in_process() as machine:
        toolstack = Toolstack(machine, notice)
        toolstack.backends.started(toolstack.driver)
        yield toolstack
        toolstack.guest.destroying = True  # whatever is still going on ends


@pytest.fixture
def toolstack() -> Iterator[Toolstack]:
    with started(NOTICE) as toolstack:
        yield toolstack


def test_a_device_is_there_while_its_driver_domain_is(toolstack: Toolstack) -> None:
    toolstack.until(f"{toolstack.front}/backend", toolstack.back)
    toolstack.until(f"{toolstack.back}/frontend", toolstack.front)
    toolstack.control.run(toolstack.backends.ended(toolstack.driver.domid))
    for path in (toolstack.front, toolstack.back, f"/libxl/{toolstack.guest.domid}/device/vif/0"):
        assert toolstack.read(path) is None


@pytest.mark.parametrize("state", ["1", "5", "6"])
def test_a_front_end_that_did_not_notice_gets_its_device_anew(toolstack: Toolstack, state: str) -> None:
    """It stays where it was, or closes the new nodes for the old ones."""
    toolstack.until(f"{toolstack.back}/state", "1")
    toolstack.switch(toolstack.front, state)
    toolstack.until(toolstack.front, None)
    toolstack.until(f"{toolstack.front}/state", "1")


def test_a_front_end_that_connected_is_left_alone() -> None:
    with started(3600) as toolstack:
        toolstack.until(f"{toolstack.back}/state", "1")
        for path in (toolstack.front, toolstack.back):
            toolstack.switch(path, "4")
        assert toolstack.control.wait(lambda: not toolstack.operations.under_way, SECONDS)
        assert toolstack.read(f"{toolstack.front}/state") == "4"


def test_a_front_end_that_never_comes_is_not_unplugged_for_ever(toolstack: Toolstack) -> None:
    for _ in range(2):
        toolstack.until(f"{toolstack.front}/state", "1")
        toolstack.until(toolstack.front, None)
    toolstack.until(f"{toolstack.front}/state", "1")
    assert toolstack.control.wait(lambda: not toolstack.operations.under_way, SECONDS)
    assert toolstack.read(f"{toolstack.front}/state") == "1", "this time it stays"


def test_only_a_driver_domain_that_is_there_can_be_named(toolstack: Toolstack) -> None:
    def resolved(backend: str) -> str | None:
        return (
            toolstack.backends.resolved(DomainConfig("new", "k", vifs=(Vif(backend=backend),)))
            .vifs[0]
            .backend
        )

    assert resolved("netdom") == resolved(str(toolstack.driver.domid)) == "netdom"
    for backend in ("nodom", "77", "guest"):
        with pytest.raises(ToolstackError, match=f"vif with backend={backend}"):
            resolved(backend)
