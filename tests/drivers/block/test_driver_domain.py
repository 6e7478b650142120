"""Disks served by a driver domain on a real machine: what was acknowledged is in the image, whatever dies when."""

from functools import partial
from pathlib import Path

from tests.drivers.block.test_on_machine import OPEN, disk_line, random_image, said
from tests.drivers.net.on_machine.test_driver_domain import await_another, kill
from tests.machines import REPOSITORY, Machine, wait_until

GUESTS = REPOSITORY / "domains" / "guests"
SECTORS = 200
WRITER = (
    OPEN
    + f"""
class Probe(Guest):
    def main(self):
        disk, = disks(self.kernel)
        xenbus, number, failed = self.kernel.xenbus, 0, 0
        while number % 50 or not xenbus.read("control/shutdown"):
            try:
                disk.write(number % {SECTORS}, number.to_bytes(8, "little") * 64)
                number += 1
            except BlockError:
                failed += 1
                self.kernel.wait(lambda: disk.connected)
            if number % 50 == 0:
                xenbus.write("data/written", str(number))
        xenbus.write("data/failed", str(failed))
        xenbus.write("data/total", str(number))
        self.kernel.sleep(600)
"""
)
"""Writes number n into sector n % SECTORS, each until it is acknowledged, until it is told to shut down."""


def through_diskdom(image: Path) -> str:
    return disk_line(image).replace("'format", "'backend=diskdom, format")


def written(machine: Machine) -> int:
    return int(said(machine, "written") or -1)


def has_more(machine: Machine, before: int) -> bool:
    return written(machine) > before


def test_writes_go_on_over_the_deaths_of_their_driver_domain(clean_machine: Machine, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    random_image(image, 1 << 20)
    assert clean_machine.xenctl("create", GUESTS / "diskdom.cfg").returncode == 0
    done = clean_machine.guest(tmp_path, WRITER, extra=through_diskdom(image))
    assert done.returncode == 0, done.stderr
    for _ in range(2):
        before = written(clean_machine)
        wait_until(partial(has_more, clean_machine, before), what="writes")
        await_another(clean_machine, "diskdom", kill(clean_machine, "diskdom"))
    before = written(clean_machine)
    wait_until(lambda: written(clean_machine) > before + SECTORS, what="more writes than there are sectors")
    assert clean_machine.xenctl("shutdown", "guest").returncode == 0
    total = int(wait_until(lambda: said(clean_machine, "total"), what="the last write"))
    data = image.read_bytes()
    for number in range(total - SECTORS, total):
        at = 512 * (number % SECTORS)
        assert data[at : at + 512] == number.to_bytes(8, "little") * 64, "what was acknowledged is there"
    for name in ("guest", "diskdom"):
        assert clean_machine.xenctl("destroy", name).returncode == 0
    wait_until(clean_machine.census_is_clean, what="a clean census")


def test_a_guest_checks_a_disk_through_a_driver_domain_that_refuses_what_it_cannot_open(
    clean_machine: Machine, tmp_path: Path
) -> None:
    image = tmp_path / "disk.img"
    random_image(image, 1 << 20)
    assert clean_machine.xenctl("create", GUESTS / "diskdom.cfg").returncode == 0
    check = ("create", "-c", GUESTS / "blockcheck.cfg")
    done = clean_machine.xenctl(*check, f"disk=['backend=diskdom,vdev=xvda,target={image}']", timeout=60)
    assert "wrote and read back a pattern: all sectors right" in done.stdout, done.stdout + done.stderr
    done = clean_machine.xenctl(*check, "disk=['backend=diskdom,vdev=xvda,target=/no/such/file']")
    assert (done.returncode, done.stderr) == (
        1,
        "xenctl: device xvda: /no/such/file: No such file or directory\n",
    )
    done = clean_machine.xenctl(*check, f"disk=['backend=nodom,vdev=xvda,target={image}']")
    assert done.returncode == 3
    assert done.stderr.startswith("xenctl: disk with backend=nodom: there is no domain 'nodom'")
    assert clean_machine.xenctl("destroy", "diskdom").returncode == 0
    wait_until(clean_machine.census_is_clean, what="a clean census")
