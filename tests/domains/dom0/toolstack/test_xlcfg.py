"""Domain descriptions: what the syntax takes, what each key means, and how mistakes are told."""

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.control.description import Action, DomainConfig
from domains.dom0.toolstack.xlcfg.load import KEYS, read_config
from domains.dom0.toolstack.xlcfg.schema import IGNORED, UNSUPPORTED
from domains.dom0.toolstack.xlcfg.syntax import Atom, ConfigError, ListValue, parse, parse_override

MINIMAL = 'name = "web"\nkernel = "vmlinuz"\n'


def read(text: str, *overrides: str) -> DomainConfig:
    return read_config(text, "web.cfg", Path("/etc/xen"), overrides)


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_whole_description_is_read() -> None:
    config = read(
        """
        # a web server
        name = 'web'; type = "pv"
        kernel = "/boot/vmlinuz"      # trailing comment
        ramdisk = "initrd.img"
        root = "/dev/xvda1 ro"
        extra = "console=hvc0"
        memory = 0x100
        maxmem = 512
        vcpus = 2
        maxvcpus = 4
        uuid = "6d3c1f5e-4f2b-4c8e-9d4a-2f6b7a8c9d0e"
        disk = [
            'phy:/dev/vg/web,xvda,w',
            'format=raw, vdev=xvdb, access=ro, target=/srv/a,b.img',   # a comma at the end is free
        ]
        vif = [ 'mac=00:16:3E:01:02:03,bridge=br0', '' ]
        on_crash = "preserve"
        on_watchdog = "rename-restart"
        """
    )
    assert (config.name, config.kernel, config.ramdisk) == ("web", "/boot/vmlinuz", "/etc/xen/initrd.img")
    assert (config.memory, config.maxmem, config.vcpus, config.maxvcpus) == (256, 512, 2, 4)
    assert config.cmdline == "root=/dev/xvda1 ro console=hvc0"
    assert config.uuid == UUID("6d3c1f5e-4f2b-4c8e-9d4a-2f6b7a8c9d0e")
    first, second = config.disks
    assert (first.target, first.vdev, first.writable) == ("/dev/vg/web", "xvda", True)
    assert (second.target, second.vdev, second.writable) == ("/srv/a,b.img", "xvdb", False)
    assert [vif.mac for vif in config.vifs] == ["00:16:3e:01:02:03", None]
    assert config.on_crash is Action.PRESERVE
    assert config.on_watchdog is Action.RENAME_RESTART
    assert config.on_reboot is Action.RESTART


def test_a_driver_domain_is_told_and_named() -> None:
    config = read(MINIMAL + "vif = [ 'backend=netdom', 'backend=0', 'backend=Domain-0', 'backend=3', '' ]")
    assert [vif.backend for vif in config.vifs] == ["netdom", None, None, "3", None]
    assert not config.driver_domain
    assert read(MINIMAL + "driver_domain = 1").driver_domain
    assert not read(MINIMAL + "driver_domain = 0").driver_domain


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (r"'a\'b'", "a'b"),
        (r'"a\n\t\\"', "a\n\t\\"),
        (r'"\x41\102"', "AB"),
        ("'# no comment'", "# no comment"),
        ('"it\'s"', "it's"),
    ],
)
def test_strings_have_the_escapes_of_c(value: str, text: str) -> None:
    (setting,) = parse(f"key = {value}", "f")
    assert isinstance(setting.value, Atom)
    assert setting.value.text == text


@pytest.mark.parametrize(("text", "number"), [("64", 64), ("0x40", 64), ("0100", 64), ('"64"', 64)])
def test_numbers_are_decimal_hexadecimal_or_octal(text: str, number: int) -> None:
    assert read(MINIMAL + f"memory = {text}").memory == number


def test_lists_may_span_lines_hold_comments_and_end_with_a_comma() -> None:
    (setting,) = parse("disk = [ # one\n 'a' , # two\n\n 'b',\n ]\n", "f")
    assert isinstance(setting.value, ListValue)
    assert [item.text for item in setting.value.items if isinstance(item, Atom)] == ["a", "b"]


def test_the_last_of_several_values_counts_and_plus_joins() -> None:
    config = read(
        MINIMAL
        + 'memory = 10\nmemory = 20\nextra = "a"\nextra += " b"\ndisk = ["/a,,xvda"]\ndisk += ["/b,,xvdb"]'
    )
    assert config.memory == 20
    assert config.cmdline == "a b"
    assert [disk.vdev for disk in config.disks] == ["xvda", "xvdb"]


def test_cmdline_takes_the_place_of_root_and_extra() -> None:
    assert read(MINIMAL + 'cmdline = "x"\nroot = "/dev/xvda"\nextra = "y"').cmdline == "x"


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ('name = "web', "web.cfg:1:8", "not closed"),
        ('name = "web"\nkernel = /boot/x', "web.cfg:2:10", "must be quoted"),
        ("name == 1", "web.cfg:1:7", "expected"),
        ("name", "web.cfg:1:5", "'='"),
        ("disk = [ 'a' 'b' ]", "web.cfg:1:14", "','"),
        ("disk = [ 'a',\n", "web.cfg:2:1", "the end"),
        ('name = "a" kernel = "b"', "web.cfg:1:12", "newline"),
        (r'name = "a\qb"', "web.cfg:1:10", "escape"),
        ("x = " + "[" * 100, "web.cfg:1:21", "deep"),
        (MINIMAL + "memroy = 5", "web.cfg:3:1", "did you mean 'memory'"),
        (MINIMAL + "bootloader = 'pygrub'", "web.cfg:3:1", "there is none"),
        (MINIMAL + "bootloader = '/opt/myboot'", "web.cfg:3:14", "not known"),
        (MINIMAL + "firmware = 'pvgrub64'\ndisk = ['/a,,xvda']", "web.cfg:3:1", "both given"),
        (MINIMAL + "pci = [ '01:00.0' ]", "web.cfg:3:1", "passed through"),
        (MINIMAL + "memory += 5", "web.cfg:3:11", "+= is not for numbers"),
        (MINIMAL + "memory = 08", "web.cfg:3:10", "number"),
        (MINIMAL + "memory = '1_0'", "web.cfg:3:10", "number"),
        (MINIMAL + "memory = 64\r\n", "web.cfg:3:12", "CR LF"),
        (MINIMAL + "# the end", "web.cfg:3:1", "no newline behind it"),
        (MINIMAL + "import os\n", "web.cfg:3:8", "Python"),
        (MINIMAL + "extra = 'a'\nextra += ['b']", "web.cfg:4:1", "joins"),
        (MINIMAL + "memory = 'much'", "web.cfg:3:10", "number"),
        (MINIMAL + "memory = 0", "web.cfg:3:10", "between"),
        (MINIMAL + "memory = 99999999999999", "web.cfg:3:10", "between"),
        (MINIMAL + "memory = 64\nmaxmem = 32", "web.cfg:4:1", "less than"),
        (MINIMAL + "type = 'hwm'", "web.cfg:3:8", "'pv'"),
        (MINIMAL + "builder = 'hwm'", "web.cfg:3:11", "'generic'"),
        (MINIMAL + "builder = 'linux'", "web.cfg:3:11", "xm's"),
        (MINIMAL + "on_crash = 'explode'", "web.cfg:3:12", "preserve"),
        (MINIMAL + "on_crash = 'coredump'", "web.cfg:3:12", "is one of destroy, restart,"),
        (MINIMAL + "disk = 'a'", "web.cfg:3:8", "list"),
        (MINIMAL + "disk = [ '/a' ]", "web.cfg:3:10", "vdev"),
        (MINIMAL + "disk = [ '/a,,xvda',\n '/b,,xvda' ]", "web.cfg:4:2", "twice"),
        (MINIMAL + "vif = [ 'mac=zz' ]", "web.cfg:3:9", "MAC"),
        (MINIMAL + "vif = [ 'backend=' ]", "web.cfg:3:9", "names no domain"),
        (MINIMAL + "driver_domain = 'yes'", "web.cfg:3:17", "number"),
        (MINIMAL + "name = 'a/b'", "web.cfg:3:8", "name"),
        (MINIMAL + "name = '12'", "web.cfg:3:8", "number"),
        (MINIMAL + f"extra = '{'x' * 1024}'", "web.cfg:3:1", "longer"),
        ('kernel = "x"', "web.cfg:1:1", "'name' is missing"),
        ("name = 'x'", "web.cfg:1:1", "'kernel' is missing"),
        (MINIMAL + "kernel = 'python:x'", "web.cfg:3:10", "python:"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_place(text: str, where: str, what: str) -> None:
    message = refusal(text)
    assert message.startswith(f"{where}: ")
    assert what in message


@pytest.mark.parametrize("spec", ["python:domains.guests.hello:Hello"])
def test_a_python_kernel_is_a_class_of_a_module(spec: str) -> None:
    assert read(f'name = "h"\nkernel = "{spec}"').python_guest == "domains.guests.hello:Hello"


def test_a_python_file_is_relative_to_the_description() -> None:
    config = read('name = "h"\nkernel = "python:./mine.py:Mine"')
    assert config.python_guest == "/etc/xen/mine.py:Mine"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("memory=64", 64),
        ("memory=0x40", 64),
        ('memory="64"', 64),
        ("memory =64", 64),
    ],
)
def test_an_override_takes_the_place_of_the_file(override: str, value: int) -> None:
    assert read(MINIMAL + "memory = 1", override).memory == value


def test_an_override_needs_no_quotes_around_text() -> None:
    config = read(MINIMAL, "name=db", "kernel=/boot/other", "extra=a b", "disk=['/x,,xvda']")
    assert (config.name, config.kernel, config.cmdline) == ("db", "/boot/other", "a b")
    assert config.disks[0].target == "/x"


@pytest.mark.parametrize("override", ["memory", "=5", "Memory=5", "memory=much", "disk=[", "frob=1"])
def test_a_bad_override_is_told_as_the_command_lines(override: str) -> None:
    assert refusal(MINIMAL, override).startswith("command line:1:")


@pytest.mark.parametrize(
    ("spec", "target", "writable", "cdrom"),
    [
        ("/dev/vg/guest-volume,,xvda", "/dev/vg/guest-volume", True, False),
        ("/dev/vg/guest-volume,raw,xvda,rw", "/dev/vg/guest-volume", True, False),
        (
            "format=raw, vdev=xvda, access=rw, target=/dev/vg/guest-volume",
            "/dev/vg/guest-volume",
            True,
            False,
        ),
        ("raw:/dev/vg/guest-volume,xvda,w", "/dev/vg/guest-volume", True, False),
        ("/root/image.iso,,xvda,cdrom", "/root/image.iso", False, True),
        ("/root/image.iso,,xvda,,cdrom", "/root/image.iso", False, True),
        ("/root/image.iso,raw,xvda,devtype=cdrom", "/root/image.iso", False, True),
        (
            "format=raw, vdev=xvda, access=ro, devtype=cdrom, target=/root/image.iso",
            "/root/image.iso",
            False,
            True,
        ),
        ("raw:/root/image.iso,xvda:cdrom,ro", "/root/image.iso", False, True),
        ("file:/srv/x.img,xvda,r", "/srv/x.img", False, False),
        ("vg/volume,,xvda", "/dev/vg/volume", True, False),
        ("vdev=xvda,target=/a, b=c ", "/a, b=c ", True, False),
    ],
)
def test_every_documented_form_of_a_disk_is_read(spec: str, target: str, writable: bool, cdrom: bool) -> None:
    (disk,) = read(MINIMAL + f'disk = [ "{spec}" ]').disks
    assert (disk.target, disk.writable, disk.cdrom, disk.vdev) == (target, writable, cdrom, "xvda")


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("/a,zip,xvda", "unknown value for format: near `zip'"),
        ("/a,,xvda,x", "unknown value for access: near `x'"),
        ("/a,,xvda,rw,extra", "too many"),
        ("/a,,floppy", "no virtual device"),
        ("/a,,xvda,vdev=xvdb", "vdev respecified: near `xvdb'"),
        ("vdev=xvda", "no target"),
        ("vdev=xvda,target=", "no target"),
        ("/a,,xvda,script=block-x", "hotplug scripts are not supported"),
        ("/a,,xvda,specification=virtio", "not supported"),
        ("/a,,xvda,colo", "COLO is not supported"),
        ("/a,,xvda,frob=1", "unknown parameter: near `frob=1'"),
        ("nbd:/a,xvda,w", "not supported"),
        ("/a,empty,xvda,cdrom", "names an image"),
        (",empty,xvda", "cannot be empty"),
    ],
)
def test_a_disk_that_cannot_be_served_is_refused(spec: str, why: str) -> None:
    assert why in refusal(MINIMAL + f"disk = [ '{spec}' ]")


@pytest.mark.parametrize(
    ("vdev", "number"),
    [
        ("xvda", 51712),
        ("xvda1", 51713),
        ("xvdp15", 51967),
        ("xvdq", 1 << 28 | 16 << 8),
        ("xvdaa", 1 << 28 | 26 << 8),
        ("xvda16", 1 << 28 | 16),
        ("d0p0", 51712),
        ("hda", 3 << 8),
        ("hdd2", 22 << 8 | 64 | 2),
        ("sdb3", 8 << 8 | 1 << 4 | 3),
        ("51712", 51712),
    ],
)
def test_virtual_device_numbers_are_those_of_xen_vbd_interface(vdev: str, number: int) -> None:
    (disk,) = read(MINIMAL + f"disk = [ '/a,,{vdev}' ]").disks
    assert disk.devid == number


def test_a_key_is_served_or_refused_never_both() -> None:
    assert not (set(KEYS) | set(IGNORED)) & UNSUPPORTED


def told(reading: Callable[[], object]) -> list[str]:
    """The refusal's lines, of which there is one for each mistake; "read" if there was none."""
    try:
        reading()
    except ConfigError as error:
        lines = str(error).splitlines()
        return lines if len(lines) == len(error.each) else []
    return ["read"]


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_with_its_place(text: str) -> None:
    lines = told(lambda: read(text))
    assert lines
    assert all(line.startswith(("web.cfg:", "read")) for line in lines)


@given(st.text(st.characters(codec="utf-8"), max_size=100))
def test_any_override_is_read_or_refused(text: str) -> None:
    (line,) = told(lambda: parse_override(text))
    assert line.startswith(("command line:", "read"))


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ('type = "pvh"\nkernel = "k"\nnestedhvm = 1', "nestedhvm"),
        ('type = "pvh"\nkernel = "k"\naltp2m = "mixed"', "altp2m"),
        ('type = "hvm"\nfirmware_override = "k"\nvnc = 1', "vnc"),
    ],
)
def test_what_is_refused_is_not_also_said_to_be_read_over(tmp_path: Path, wrong: str, key: str) -> None:
    """Such descriptions once got two lines that contradicted each other."""
    warnings: list[str] = []
    with pytest.raises(ConfigError, match=key) as refused:
        read_config(f'name = "a"\n{wrong}\n', "a.cfg", tmp_path, warn=warnings.append)
    assert warnings == []
    assert len(refused.value.each) == 1
