"""Descriptions of the kinds that lie about in public repositories, each in words of our own: nearly all PV ones are taken.

What they have in common with what was found: the tools that wrote them (xen-tools, virt-install, ganeti, scripts that paste
lines together), the keys of xm's time, every older form of a disk, boot loaders by path. Beside each stands which of its
keys are ignored, or why it is refused, which xl would do too, or for want of what it asks for.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from domains.control.description import DISK_PREFIX
from domains.dom0.toolstack.xlcfg.load import read_config
from domains.dom0.toolstack.xlcfg.syntax import ConfigError


class Found(NamedTuple):
    """`over`: the keys that are ignored; `refused`: pieces of the reasons, one for each mistake."""

    text: str
    over: str = ""
    refused: tuple[str, ...] = ()


TAKEN = {
    "xen-tools, a boot loader in Dom0": Found(
        """
        #  Kernel + memory size
        bootloader = '/usr/lib/xen-4.4/bin/pygrub'
        vcpus       = '2'
        memory      = '512'
        root        = '/dev/xvda2 ro'
        disk        = [
                          'phy:/dev/vg0/alpha-disk,xvda2,w',
                          'phy:/dev/vg0/alpha-swap,xvda1,w',
                      ]
        name        = 'alpha'
        dhcp        = 'dhcp'
        vif         = [ 'mac=00:16:3E:11:22:33,bridge=br0' ]
        on_poweroff = 'destroy'
        on_reboot   = 'restart'
        on_crash    = 'restart'
        """,
        "dhcp",
    ),
    "xen-tools, a kernel of Dom0's, images in files": Found(
        """
        kernel = '/boot/vmlinuz-3.2.0-4-amd64'; ramdisk = '/boot/initrd.img-3.2.0-4-amd64'
        memory = '256'; name = 'beta'; hostname = 'beta'
        root = '/dev/xvda2 ro'
        disk = [ 'file:/srv/xen/beta/disk.img,xvda2,w', 'file:/srv/xen/beta/swap.img,xvda1,w' ]
        vif = [ 'ip=192.168.1.21 192.168.1.22 fd00::21,mac=0:16:3e:1:2:3' ]
        """,
        "hostname",
    ),
    "virt-install, with a boot loader and the kernel it last found": Found(
        """
        name = "gamma"
        uuid = "9f07fe28-753f-2729-d76d-bdbd892f949b"
        maxmem = 2500
        memory = 300
        vcpus = 4
        bootloader = "/usr/bin/pygrub"
        kernel = "/var/lib/xen/boot_kernel.0"
        ramdisk = "/var/lib/xen/boot_ramdisk.0"
        extra = "ro root=/dev/VolGroup00/LogVol00 quiet"
        sdl = 0
        vnc = 1
        vncunused = 1
        vnclisten = "0.0.0.0"
        disk = [ "tap:aio:/srv/gamma.img,xvda,w", "tap:qcow:/srv/more.qcow,xvdd,w" ]
        vif = [ "mac=00:16:3e:60:36:ba,bridge=virbr0,script=vif-bridge,vifname=vif5.0" ]
        """,
        "kernel ramdisk sdl vnc vncunused vnclisten",
    ),
    "a frame buffer for a PV guest": Found(
        """
        name = "delta"; kernel = "k"; memory = 1024
        disk = [ 'tap2:tapdisk:aio:/srv/d.img,xvda,w' ]
        vfb = [ 'type=vnc,vncdisplay=3,vncpasswd=x' ]
        keymap = "de"; vncconsole = 1; usbdevice = "tablet"; serial = "pty"; localtime = 0
        """,
        "vfb keymap vncconsole usbdevice serial localtime",
    ),
    "what stands in HVM descriptions, in a PV one": Found(
        """
        builder = "generic"
        name = "epsilon"; kernel = "k"; memory = 128
        acpi = 1; apic = 1; pae = 1; boot = "c"; stdvga = 0; hap = 1; nx = 1
        device_model = '/usr/lib/xen/bin/qemu-dm'
        device_model_version = 'qemu-xen'
        disk = [ 'phy:/dev/sdb1,hda1,w', 'file:/srv/cd.iso,hdc:cdrom,r' ]
        """,
        "acpi apic pae boot stdvga hap nx device_model device_model_version",
    ),
    "of xm's time": Found(
        """
        kernel = "/boot/vmlinuz-2.6-xenU"; memory = 64; name = "zeta"; cpu = 1
        disk = [ 'phy:hda1,hda1,w' ]
        restart = 'onreboot'
        vif = [ 'type=ioemu, bridge=xenbr0, model=e1000' ]
        seclabel = 'x'
        """,
        "cpu restart seclabel",
    ),
    "a unikernel": Found(
        "kernel = 'web.xen'\nname = 'eta'\nmemory = 32\non_crash = 'preserve'\nvif = ['']", ""
    ),
    "a unikernel without a newline at its end, on one line": Found(
        "name='theta';kernel='m.xen';memory=32;vcpus=1;on_poweroff='destroy';disk=[];vif=['bridge=br0']", ""
    ),
    "Open vSwitch, and PCI keys that ask for nothing": Found(
        """
        name = "iota"; kernel = "k"; type = "pv"
        vif = [ 'script=vif-openvswitch,bridge=ovsbr0', 'script=vif-openvswitch, bridge=ovsbr1' ]
        pci = []; pci_permissive = 1; nomigrate = 1; tsc_mode = "native"
        """,
        "pci pci_permissive nomigrate tsc_mode",
    ),
    "a storage domain": Found(
        """
        name = "kappa"; kernel = "k"
        disk = [ 'backend=storage,phy:/dev/vg/kappa,xvda,w', 'format=raw, vdev=xvdb, access=ro, target=/srv/a,b.img' ]
        cpus = ["2-5", "4"]
        extra = "console=hvc0"
        extra += " quiet"
        """,
        "",
    ),
    "words that nobody knows": Found(
        """
        name = "lambda"; kernel = "k"
        arch = "x86"
        iommu = 1
        permissive = 0
        """,
        "arch iommu permissive",
    ),
    "two values for one key, an empty CD-ROM drive, hexadecimal numbers": Found(
        """
        name = "mu"; kernel = "k"; memory = 0x80
        vif = [ 'bridge=br0' ]
        vif = [ 'bridge=br1' ]
        disk = [ ',hdc:cdrom,r', '/dev/vg/mu,,0xCA00,rw' ]
        """,
        "disk",
    ),
    "a boot loader of libvirt's name, on a disk of QEMU's": Found(
        "name = 'nu'; firmware = 'pvgrub64'; disk = [ 'qcow2:/srv/nu.qcow2,xvda,w' ]", ""
    ),
    "an interface of a network appliance": Found(
        """
        name = "xi"; kernel = "k"; type = "pvh"
        vif = [ 'mac=00:16:3e:00:00:01,bridge=wan,rate=10Mb/s,mtu=9000', 'vifname=xi.1,bridge=lan,trusted' ]
        max_grant_frames = 64
        """,
        "",
    ),
}
REFUSED = {
    "Python, as descriptions were in xm's time": Found(
        "import os\narch = os.uname()[4]\nname = 'a'\nkernel = 'k'\n", refused=("Python", "a quoted string")
    ),
    "a file of Windows'": Found("name = 'a'\r\nkernel = 'k'\r\n", refused=("CR LF", "CR LF")),
    "a device of the host": Found(
        "name = 'a'\nkernel = 'k'\npci = [ '0000:01:00.0' ]\nioports = [ '2f8-2ff' ]\n",
        refused=("passed through",) * 2,
    ),
    "a format of nobody's": Found(
        "name = 'a'\nkernel = 'k'\ndisk = [ 'tap:aio:/a,aio,xvda,w', 'vmdk:/a.vmdk,xvdb,w' ]\n",
        refused=("unknown value for access: near `xvda'", "unknown deprecated disk prefix: near `vmdk:'"),
    ),
    "remote disks": Found(
        "name = 'a'\nkernel = 'k'\ndisk = [ 'nbd:host:1234,xvda,w',\n'script=block-rbd,vdev=xvdb,target=p/i' ]\n",
        refused=("block-nbd", "block-rbd"),
    ),
    "displays and sound": Found(
        "name = 'a'\nkernel = 'k'\nvdispl = [ 'connectors=a:1x1' ]\nvkb = [ 'backend=0' ]\n",
        refused=("back end",) * 2,
    ),
    "an HVM guest": Found(
        "name = 'a'\nbuilder = 'hvm'\nmemory = 512\nboot = 'd'\nvnc = 1\n",
        refused=("device model", "device model"),
    ),
    "a boot loader of one's own": Found(
        "name = 'a'\nbootloader = '/usr/local/bin/domU-boot'\nbootloader_args = '-q'\ndisk = ['/a,,xvda']\n",
        refused=("not known", "there are none"),
    ),
    "a slip of the pen": Found(
        "name = 'a'\nkernal = 'k'\nvcpu = 2\n", refused=("kernel' is missing", "'kernel'", "'vcpus'")
    ),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_descriptions_as_they_are_found_are_taken(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XENOSCOPE_CACHE", str(tmp_path))
    (tmp_path / "guests").mkdir()
    (tmp_path / "guests/grub-x86_64-xen.bin").touch()
    found, warnings = TAKEN[kind], list[str]()
    config = read_config(found.text, "found.cfg", tmp_path, warn=warnings.append)
    keys = [line.split()[1].rstrip(":") for line in warnings]
    keys = [
        line.split("'")[1] if word == "unknown" else word for word, line in zip(keys, warnings, strict=True)
    ]
    assert sorted(keys) == sorted(found.over.split())
    assert config.kernel.startswith(DISK_PREFIX) == ("pygrub" in found.text)
    assert not any(disk.cdrom and disk.writable for disk in config.disks)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_is_refused_with_each_reason(kind: str, tmp_path: Path) -> None:
    found = REFUSED[kind]
    with pytest.raises(ConfigError) as refused:
        read_config(found.text, "found.cfg", tmp_path)
    lines = str(refused.value).splitlines()
    assert len(lines) == len(found.refused), lines
    for line, why in zip(lines, found.refused, strict=True):
        assert line.startswith("found.cfg:")
        assert why in line
