"""mem-set, mem-max and claims as a user sees them, and the balloon of a Python guest, on one machine.

What Debian's Linux makes of them is in tests/guests/test_linux_hotplug.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from domains.control.memory_operations import MemSet, kib_of
from domains.control.operations import Reboot, XenstoreLs
from domains.control.protocol import ControlError, Exit
from tests.domains.dom0.store_socket import StoreSocket
from tests.domains.xenctl.commands import lines_of, succeeds, xenctl
from tests.machines import Machine, wait_until

MACHINE_MIB = 128
TAKER = """
from domains.kernel.balloon import Balloon
from domains.kernel.tasks import Task

class Probe(Guest):
    '''Takes all pages it can get, or gives them back, as its node `data` says.'''

    def main(self) -> None:
        Balloon(self.kernel).start()
        self.pages = []
        self.kernel.xenbus.watch("data", self.told)
        self.kernel.wait(lambda: False)

    def told(self, path: str) -> Task[None]:
        wish = yield from self.kernel.xenbus.tasks.read(path)
        if wish == "take":
            self.take()
            yield from self.kernel.xenbus.tasks.write(path, f"took {len(self.pages)}")
        elif wish == "give":
            self.give()
            yield from self.kernel.xenbus.tasks.write(path, "gave")

    def take(self) -> None:
        memory, cpu = self.kernel.memory, self.kernel.cpu
        for _ in range(memory.free_pages - 80):
            page = memory.alloc_page()
            assert cpu.load(page.va, 8) == bytes(8)
            cpu.store(page.va, page.pfn.to_bytes(8, "little"))
            self.pages.append(page)

    def give(self) -> None:
        for page in self.pages:
            assert self.kernel.cpu.load(page.va, 8) == page.pfn.to_bytes(8, "little")
            assert self.kernel.memory.phys_to_machine(page.pfn) == page.mfn
            self.kernel.memory.free_page(page)
        self.pages.clear()
"""


@pytest.fixture(scope="module")
def lasting() -> Iterator[Machine]:
    machine = Machine(memory=MACHINE_MIB)
    try:
        yield machine
    finally:
        machine.stop()


@pytest.fixture
def machine(lasting: Machine) -> Iterator[Machine]:
    """Afterwards every frame is back."""
    yield lasting
    lasting.end_domains()
    wait_until(lasting.census_is_clean, 30, "a clean census")


def made(machine: Machine, tmp_path: Path, maxmem: int = 24) -> None:
    done = machine.guest(tmp_path, TAKER, extra=f"maxmem = {maxmem}")
    assert done.returncode == 0, done.stderr


def node(machine: Machine, path: str) -> str:
    (found,) = machine.ask(XenstoreLs(f"/local/domain/{machine.domain('guest')['domid']}/{path}"))
    return str(found["value"].decode())


def does(machine: Machine, wish: str, answer: str) -> str:
    """Tell the guest, by the store's own socket, and wait until it has done so."""
    with StoreSocket(machine.xenstored_path) as store:
        store.write(f"/local/domain/{machine.domain('guest')['domid']}/data".encode(), wish.encode())
    wait_until(lambda: node(machine, "data").startswith(answer), 20, f"'{answer}'")
    return node(machine, "data")


def kib(machine: Machine) -> int:
    return int(machine.domain("guest")["memory_kib"])


def has(machine: Machine, wanted: int) -> None:
    wait_until(lambda: kib(machine) == wanted, 30, f"{wanted} KiB of the guest's")


def test_a_guest_gives_memory_back_and_takes_it_up_to_what_it_may_have(
    machine: Machine, tmp_path: Path
) -> None:
    made(machine, tmp_path)
    before, free = kib(machine), machine.info()["free_frames"]
    shown = json.loads(succeeds(machine, "mem-set", "guest", "4", "--json"))
    domid = machine.domain("guest")["domid"]
    assert shown == {"domid": domid, "target_kib": 4096, "static_max_kib": 24576, "memory_kib": before}
    has(machine, 4096)
    assert machine.info()["free_frames"] - free == (before - 4096) // 4
    assert succeeds(machine, "mem-set", "guest", "24m") == ""
    has(machine, 24576)
    assert machine.info()["free_frames"] - free == (before - 24576) // 4
    assert (node(machine, "memory/target"), machine.domain("guest")["config"]["memory"]) == ("24576", 24)
    assert int(does(machine, "take", "took ").split()[1]) > 5500
    does(machine, "give", "gave")


def test_memory_in_use_is_given_back_when_it_is_free(machine: Machine, tmp_path: Path) -> None:
    made(machine, tmp_path)
    does(machine, "take", "took ")
    machine.ask(MemSet("guest", 4096))
    does(machine, "give", "gave")
    has(machine, 4096)


def test_a_domain_takes_no_more_than_its_target(machine: Machine, tmp_path: Path) -> None:
    """Whatever it asks for: Xen lets it have 1 MiB more, as libxl has it. Negative control: with a
    MAXMEM_CONSTANT of 1 GiB it has 24 MiB."""
    body = TAKER.replace(
        "Balloon(self.kernel).start()", "b = Balloon(self.kernel); b._target = 6144; b._work.trigger()"
    )
    done = machine.guest(tmp_path, body, extra="maxmem = 24")
    assert done.returncode == 0, done.stderr
    has(machine, 8192 + 1024)
    does(machine, "take", "took ")
    assert kib(machine) == 8192 + 1024


def test_what_a_domain_has_stays_after_a_reboot(machine: Machine, tmp_path: Path) -> None:
    text = 'name = "guest"\nkernel = "python:domains.guests.idle:Idle"\nmemory = 8\n'
    assert machine.create(tmp_path, text).returncode == 0
    succeeds(machine, "mem-max", "guest", "20")
    succeeds(machine, "mem-set", "guest", "10240k")
    has(machine, 10240)
    domid = machine.domain("guest")["domid"]
    machine.ask(Reboot("guest", wait=True))
    wait_until(lambda: machine.domains().get("guest", {}).get("domid", domid) != domid, what="the reboot")
    has(machine, 10240)

    def limit() -> str:
        with suppress(ControlError):  # it is listed before its part of the store is written
            return node(machine, "memory/static-max")
        return ""

    assert wait_until(limit, what="the store's part") == "20480"


def test_amounts_that_cannot_be_are_refused_and_nothing_changes(machine: Machine, tmp_path: Path) -> None:
    made(machine, tmp_path, maxmem=1024)
    before, limit = kib(machine), machine.domain("guest")["max_memory_kib"]
    for code, text, words in (
        (
            1,
            "memory_dynamic_max must be less than or equal to memory_static_max",
            ["mem-set", "guest", "1025"],
        ),
        (
            1,
            "memory_static_max must be greater than or equal to memory_dynamic_max",
            ["mem-max", "guest", "7"],
        ),
        (1, "of the machine are free; take from another domain first", ["mem-set", "guest", "512"]),
        (1, "Dom0 has the memory that it was made with", ["mem-set", "Domain-0", "64"]),
        (3, "no domain 'nobody'", ["mem-max", "nobody", "64"]),
        (2, "invalid memory size: 5x;", ["mem-set", "guest", "5x"]),
        (2, "invalid memory size: 1000b;", ["mem-max", "guest", "1000b"]),
        (2, "invalid memory size: -5;", ["mem-set", "--", "guest", "-5"]),
        (2, "Missing argument 'MEM'", ["mem-set", "guest"]),
    ):
        done = xenctl(machine, *words)
        assert (done.code, done.out, text in done.err) == (Exit(code), "", True), done
        assert len(done.err.splitlines()) == 1
    about = machine.domain("guest")
    assert (about["memory_kib"], about["max_memory_kib"]) == (before, limit)
    assert (node(machine, "memory/target"), node(machine, "memory/static-max")) == ("8192", "1048576")


@pytest.mark.parametrize(
    ("text", "amount"), [("64", 65536), ("64m", 65536), ("2048K", 2048), ("1g", 1 << 20), ("1048576b", 1024)]
)
def test_amounts_are_read_as_xl_reads_them(text: str, amount: int) -> None:
    assert kib_of(text) == amount


@pytest.mark.parametrize("text", ["", "m", "1.5g", "1mb", "0", "1k", "9" * 30, "²"])
def test_other_amounts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid memory size"):
        kib_of(text)


def test_nothing_is_claimed(machine: Machine) -> None:
    header, dom0 = lines_of(machine, "claims")
    assert header == ["Name", "ID", "Mem", "VCPUs", "State", "Time(s)", "Claimed"]
    assert (dom0[0], dom0[-1]) == ("Domain-0", "0")
    assert json.loads(succeeds(machine, "claims", "--json"))[0]["claimed_kib"] == 0
