"""The example guests on a real machine: every process real, every result as a user sees it."""

import re
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machines import REPOSITORY, XENCTL, Machine, wait_until

GUESTS = REPOSITORY / "domains" / "guests"
PRIVATE_LIMIT_KIB = 8 * 1024


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.stop()


@pytest.fixture(autouse=True)
def nothing_is_left(machine: Machine) -> Iterator[None]:
    yield
    wait_until(machine.census_is_clean, what="a clean census")


def output_of(machine: Machine, config: Path) -> list[str]:
    """What the guest prints from its first byte to its end, in lines."""
    done = machine.xenctl("create", "-c", config)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_hello_says_hello_and_powers_off(machine: Machine) -> None:
    assert re.fullmatch(r"hello from domain \d+, 8 MiB", output_of(machine, GUESTS / "hello.cfg")[0])


def test_a_page_is_a_fault_at_its_first_touch_and_memory_afterwards(machine: Machine) -> None:
    first, second = output_of(machine, GUESTS / "demandpaging.cfg")
    touched = int(first.split()[0])
    assert first == f"{touched} of 600 pages touched, {touched} page faults, all contents right"
    assert second.startswith("page fault at 0x1000")


def test_every_attempt_of_the_hostile_guest_is_refused(machine: Machine) -> None:
    lines = output_of(machine, GUESTS / "hostile.cfg")
    assert lines[-1] == f"all {len(lines) - 1} attempts were refused"
    assert not any("SUCCEEDED" in line for line in lines)


def test_a_guest_reads_its_disk_and_what_it_wrote_is_in_the_image(machine: Machine, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    before = bytes(range(256)) * 2048
    image.write_bytes(before)
    config = tmp_path / "blockcheck.cfg"
    config.write_text((GUESTS / "blockcheck.cfg").read_text().replace("target=disk.img", f"target={image}"))
    lines = output_of(machine, config)
    assert lines[0] == f"disk of {len(before) // 512} sectors"
    assert lines[1] == f"crc32 of what was there: {zlib.crc32(before):08x}"
    assert lines[2] == "wrote and read back a pattern: all sectors right"
    sectors = [image.read_bytes()[at : at + 8] for at in range(0, len(before), 512)]
    assert sectors == [number.to_bytes(8, "little") for number in range(len(sectors))]


def test_an_idle_guest_is_small_and_ends_when_it_is_told(machine: Machine, tmp_path: Path) -> None:
    """A process may always look at its own memory, whoever runs the tests."""
    module = tmp_path / "weighed.py"
    module.write_text(
        "from domains.guests.idle import Idle\n\n\n"
        "class Weighed(Idle):\n"
        "    def main(self):\n"
        "        super().main()\n"
        "        print(open('/proc/self/smaps_rollup').read())\n"
    )
    config = tmp_path / "weighed.cfg"
    config.write_text(f'name = "weighed"\nkernel = "python:{module}:Weighed"\nmemory = 8\n')
    console = subprocess.Popen(
        [*XENCTL, "create", "-c", config], env=machine.environment, stdout=subprocess.PIPE, text=True
    )
    wait_until(
        lambda: "b" in machine.domains().get("weighed", {"state": ""})["state"], what="a blocked guest"
    )
    assert machine.xenctl("shutdown", "weighed").returncode == 0
    printed, _ = console.communicate(timeout=30)
    last = printed.rpartition("[rollup]")[2]
    sizes = re.findall(r"^Private_\w+:\s+(\d+) kB", last, re.MULTILINE)
    assert sizes
    assert sum(map(int, sizes)) <= PRIVATE_LIMIT_KIB


BROKEN = """
class Probe(Guest):
    def main(self):
        raise LookupError("on purpose")
"""
PING_PONG = """
class Probe(Guest):
    def main(self):
        events, seen = self.kernel.events, []
        port = events.alloc_unbound(self.kernel.domid)
        other = events.bind_interdomain(self.kernel.domid, port)
        events.bind(other, lambda: seen.append(1))
        for count in range(1, 1000):
            events.notify(port)
            if not self.kernel.wait(lambda: len(seen) >= count, 5):
                raise SystemError(f"event {count} was lost")
        print("none was lost")
"""
COMPUTING = """
class Probe(Guest):
    def main(self):
        kernel = self.kernel
        kernel.call_later(0.05, lambda: None)
        kernel.wait(lambda: False, 0.01)
        kernel.hypercalls.hypercall_set_timer_op(kernel.now() + 50_000_000)
        steps = 0
        while not kernel.loop.ready and kernel.now() < 30_000_000_000_000:
            steps += 1
        print("interrupted while computing")
"""
TYPING = """
class Probe(Guest):
    def main(self):
        print("name?")
        print("hello,", input())
"""


def run_probe(machine: Machine, tmp_path: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Run a guest whose class is `Probe` and whose console is followed to its end."""
    return machine.guest(tmp_path, body, "-c", name="probe")


def test_what_main_raises_is_a_traceback_on_the_console_and_a_crash(machine: Machine, tmp_path: Path) -> None:
    done = run_probe(machine, tmp_path, BROKEN)
    assert "LookupError: on purpose" in done.stdout
    assert done.returncode == 5


def test_an_event_wakes_a_guest_that_is_about_to_sleep(machine: Machine, tmp_path: Path) -> None:
    """A ping-pong of two ports through a real core: a single lost wake-up would end it."""
    assert run_probe(machine, tmp_path, PING_PONG).stdout.splitlines() == ["none was lost"]


def test_an_upcall_reaches_a_guest_that_computes(machine: Machine, tmp_path: Path) -> None:
    """The guest makes no hypercall in its loop: the timer's event comes by a signal."""
    assert run_probe(machine, tmp_path, COMPUTING).stdout.splitlines() == ["interrupted while computing"]


def test_input_reads_a_line_that_is_typed(machine: Machine, tmp_path: Path) -> None:
    assert machine.guest(tmp_path, TYPING, name="typing").returncode == 0
    done = machine.xenctl("console", "typing", stdin="world\n")
    assert "hello, world" in done.stdout.replace("\r", "")
