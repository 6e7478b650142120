"""Descriptions are read as xl reads them: where lines end, which keys are ignored, what an interface and a disk may say,
and a guest that boots by its own disk. Sources: Xen tools/libs/util/libxlu_cfg_l.l, tools/xl/xl_parse.c.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from domains.dom0.toolstack.xlcfg.load import read_config
from domains.dom0.toolstack.xlcfg.syntax import ConfigError
from tests.domains.dom0.toolstack.test_xlcfg import MINIMAL, read, refusal


def test_all_mistakes_of_a_file_are_told_each_with_its_place() -> None:
    """Its syntax, its keys and its values: the first one of them was all that was told once."""
    text = (
        "name = 'web\nkernel = /boot/x\nmemory = 'much'\ndisk = [ 'a' 'b',\n 'c' ]\nvif = [ 'mac=zz', 'q=1' ]\npci = ['1']\n"
        "import os\nmemroy = 1\n"
    )
    with pytest.raises(ConfigError) as caught:
        read(text)
    places = [str(error.position).removeprefix("web.cfg:") for error in caught.value.each]
    assert places == ["1:8", "2:10", "3:10", "4:14", "6:9", "6:19", "7:1", "8:8", "9:1"]


def test_what_two_keys_say_against_each_other_is_told_beside_other_mistakes() -> None:
    with pytest.raises(ConfigError) as caught:
        read(MINIMAL + "memory = 64\nmaxmem = 32\nvif = ['q=1']\n")
    assert [error.position.line for error in caught.value.each] == [4, 5]


@pytest.mark.parametrize(
    "text",
    [
        MINIMAL.rstrip("\n"),
        MINIMAL.replace("\n", ";"),
        f";;{MINIMAL};",
        MINIMAL + "# a carriage return in a comment\r\n",
        MINIMAL + "extra = 'a' # and a comment\n",
    ],
)
def test_lines_end_as_for_libxlutil(text: str) -> None:
    assert read(text).name == "web"


def test_what_xl_reads_over_is_read_over_with_a_warning() -> None:
    text = MINIMAL + (
        "dhcp = 'dhcp'\nvfb = ['vnc=1']\nserial = 'pty'\niommu = 1\npci = []\nbootloader_args = ''\n"
        "disk = [',hdc:cdrom,r', '/a,,xvda']\n"
    )
    warnings: list[str] = []
    config = read_config(text, "web.cfg", Path("/etc/xen"), warn=warnings.append)
    assert [disk.vdev for disk in config.disks] == ["xvda"]
    wanted = {
        3: "dhcp is",
        4: "display",
        5: "serial is",
        6: "unknown key 'iommu'",
        7: "nothing",
        8: "nothing",
        9: "empty",
    }
    assert len(warnings) == len(wanted)
    for line, (number, what) in zip(warnings, wanted.items(), strict=True):
        assert line.startswith(f"web.cfg:{number}:")
        assert what in line


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.1/24  10.0.1.1", "10.0.0.1/24 10.0.1.1"),
        ("fd00::1/64", "fd00::1/64"),
        ("10.0.0.1 fe80::216:3eff:fe00:1", "10.0.0.1 fe80::216:3eff:fe00:1"),
    ],
)
def test_an_interface_has_any_number_of_addresses(given: str, kept: str) -> None:
    (vif,) = read(MINIMAL + f"vif = [ 'ip={given},bridge=br0' ]").vifs
    assert vif.ip == kept


@pytest.mark.parametrize("given", ["10.0.0.256", "fd00:::1", "here", "10.0.0.1;rm", ""])
def test_what_is_no_address_is_refused(given: str) -> None:
    assert "address" in refusal(MINIMAL + f"vif = [ 'ip={given}' ]")


def test_a_relative_image_lies_beside_the_description_or_in_dev(tmp_path: Path) -> None:
    (tmp_path / "disk.img").touch()
    text = MINIMAL + "disk = ['file:disk.img,xvda,w', 'phy:vg/data,xvdb,w']"
    disks = read_config(text, "web.cfg", tmp_path).disks
    assert [disk.target for disk in disks] == [str(tmp_path / "disk.img"), "/dev/vg/data"]


@pytest.mark.parametrize("program", ["pygrub", "/usr/lib/xen-4.4/bin/pygrub"])
def test_with_pygrub_the_kernel_is_the_one_in_the_first_disk(program: str) -> None:
    text = f"""name = 'web'; bootloader = '{program}'; kernel = 'k'; ramdisk = 'r'
    disk = ['/srv/a.img,,xvda2,w', '/srv/b.img,,xvda1,w']; root = '/dev/xvda2 ro'; extra = 'quiet'
    """
    warnings: list[str] = []
    config = read_config(text, "web.cfg", Path("/"), warn=warnings.append)
    assert (config.kernel, config.ramdisk) == ("disk:/srv/a.img", None)
    assert config.cmdline == "root=/dev/xvda2 ro quiet"
    assert [line.partition(" is ")[0].rpartition(" ")[2] for line in warnings] == ["kernel", "ramdisk"]


@pytest.mark.parametrize(
    ("key", "file"),
    [
        ("bootloader = 'pvgrub'", "grub-x86_64-xen.bin"),
        ("firmware = 'pvgrub32'", "grub-i386-xen.bin"),
        ("type = 'pvh'; bootloader = 'pvgrub'", "grub-i386-xen_pvh.bin"),
    ],
)
def test_with_pvgrub_grub_is_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, file: str
) -> None:
    monkeypatch.setenv("XENOSCOPE_CACHE", str(tmp_path))
    grub = tmp_path / "guests" / file
    grub.parent.mkdir()
    grub.touch()
    warnings: list[str] = []
    text = f"name = 'web'\n{key}\ndisk = ['/a,,xvda']\nroot = '/dev/xvda ro'\nextra = 'quiet'\n"
    config = read_config(text, "web.cfg", tmp_path, warn=warnings.append)
    assert (config.kernel, config.cmdline, config.ramdisk) == (str(grub), "", None)
    assert [line.partition(" is ")[0] for line in warnings] == ["web.cfg:4:1: root", "web.cfg:5:1: extra"]


def test_without_grub_it_is_said_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XENOSCOPE_CACHE", str(tmp_path))
    monkeypatch.setattr("domains.dom0.toolstack.xlcfg.bootloader.DEBIANS", tmp_path)
    why = refusal("name = 'web'\nbootloader = 'pvgrub'\ndisk = ['/a,,xvda']")
    assert why.startswith("web.cfg:2:1: bootloader needs GRUB's grub-x86_64-xen.bin")
    assert "grub-xen-host" in why
