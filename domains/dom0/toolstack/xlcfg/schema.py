"""The keys of xl.cfg(5): which there are, what type each has, and which this toolstack acts on.

A key that xl reads over for a PV domain is read over here too, with a warning. A key that xl acts upon and this
toolstack does not is refused as "not supported yet", for a guest whose description is followed in part would surprise
its owner. A key nobody knows is refused with the nearest one that exists.
"""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

from domains.control.description import (
    MAX_DEVICES,
    MAX_NUMBER,
    PYTHON_PREFIX,
    Action,
    Disk,
    GuestType,
    Vif,
    bad_name,
)
from domains.dom0.toolstack.xlcfg.disk import parse_disk
from domains.dom0.toolstack.xlcfg.syntax import Atom, ConfigError, ListValue, Value, all_of
from domains.dom0.toolstack.xlcfg.vif import parse_vif

HVM_KEYS: Final = frozenset(
    """
    acpi acpi_firmware acpi_laptop_slate acpi_s3 acpi_s4 altp2m altp2mhvm apic bios bios_path_override boot
    device_model_stubdomain_override device_model_stubdomain_seclabel dm_restrict firmware firmware_override
    gfx_passthru hap hdtype hpet hvm_pirq keymap mca_caps mmio_hole ms_vm_genid nestedhvm nx oos opengl pae rdm
    rdm_mem_boundary serial shadow_memory smbios smbios_firmware soundhw spice spice_clipboard_sharing
    spice_image_compression spice_streaming_video spiceagent_mouse spicedisable_ticketing spicehost spicepasswd
    spiceport spicetls_port spiceusbredirection spicevdagent stdvga stubdomain_cmdline stubdomain_kernel
    stubdomain_memory stubdomain_ramdisk timer_mode usb usbdevice usbversion vendor_device vga videoram viridian
    vpt_align xen_platform_pci localtime rtc_timeoffset
    """.split()  # noqa: SIM905
)
DISPLAY_KEYS: Final = frozenset(
    """
    display nographic sdl vnc vncconsole vncdisplay vnclisten vncpasswd vncunused vncviewer xauthority
    """.split()  # noqa: SIM905
)
OTHER_KEYS: Final = {
    "dhcp": "no part of Xen's reads it",
    "hostname": "no part of Xen's reads it",
    "loader": "a guest that needs one is built otherwise",
    "seclabel": "there is no security module",
    "init_seclabel": "there is no security module",
    "xend_suspend_evtchn_compat": "it means nothing to this toolstack",
}
IGNORED: Final = {
    **dict.fromkeys(HVM_KEYS, "it means nothing to a domain without a device model"),
    **dict.fromkeys(DISPLAY_KEYS, "there is no display"),
    **dict.fromkeys(("hap", "shadow_memory"), "a PV domain runs on its own page tables"),
    **OTHER_KEYS,
}
"""Keys that are read over, as xl does with a PV domain, and why."""

UNSUPPORTED: Final = frozenset(
    """
    bootloader bootloader_args bootloader_restrict bootloader_user channel claim_mode cpuid cpus
    cpus_soft device_model device_model_args device_model_args_hvm device_model_args_pv
    device_model_override device_model_user device_model_version device_tree dtdev e820_host extratime
    gic_version iomem ioports irqs latency msr_relaxed nomigrate on_soft_reset p9 passthrough pci
    pci_msitranslate pci_permissive pci_power_mgmt pci_seize period pool pvcalls pvshim pvshim_cmdline
    pvshim_extra pvshim_path slice tee tsc_mode usbctrl usbdev vdispl vfb vif2 virtio vkb vkb_device
    vmtrace_buf_kb vnuma vpmu vsnd vtpm vuart
    """.split()  # noqa: SIM905
)


T = TypeVar("T")


class Reader:
    """Turns the value of one key into a typed one; every refusal names the key and stands at its position."""

    def __init__(self, key: str, value: Value, folder: Path) -> None:
        """`folder`: what relative paths are relative to."""
        self._key = key
        self._value = value
        self._folder = folder

    def text(self) -> str:
        """A string without NUL."""
        if not isinstance(self._value, Atom):
            raise self.refused("is a string, not a list")
        if "\0" in self._value.text:
            raise self.refused("contains a NUL character")
        return self._value.text

    def name(self) -> str:
        """A domain's name."""
        name = self.text()
        if (why := bad_name(name)) is not None:
            raise self.refused(why)
        return name

    def number(self, minimum: int = 0, maximum: int = MAX_NUMBER) -> int:
        """A number within these bounds, both included: decimal, octal after 0, hexadecimal after 0x."""
        text = self.text()
        try:
            number = int(text, 8 if text.isdecimal() and text[0] == "0" else 0)
        except ValueError:
            raise self.refused(f"is a number, not '{text}'") from None
        if not minimum <= number <= maximum:
            raise self.refused(f"must lie between {minimum} and {maximum}, not at {number}")
        return number

    def boolean(self) -> bool:
        """A number, as xl has it: anything but 0 is true."""
        return self.number() != 0

    def path(self) -> str:
        """A file's absolute path."""
        text = self.text()
        if not text:
            raise self.refused("is empty")
        return str(self._folder / Path(text).expanduser())

    def kernel(self) -> str:
        """A file's absolute path, or `python:…:Class` with the file's absolute path if it names one."""
        text = self.text()
        if not text.startswith(PYTHON_PREFIX):
            return self.path()
        where, colon, name = text.removeprefix(PYTHON_PREFIX).rpartition(":")
        if not colon or not where or not name.isidentifier():
            raise self.refused("must be python:package.module:Class or python:./file.py:Class")
        if where.endswith(".py"):
            return f"{PYTHON_PREFIX}{(self._folder / Path(where).expanduser()).resolve()}:{name}"
        if not all(part.isidentifier() for part in where.split(".")):
            raise self.refused(f"'{where}' is neither a module nor a .py file")
        return text

    def action(self) -> Action:
        """What follows an event."""
        text = self.text()
        if text in ("coredump-destroy", "coredump-restart", "soft-reset"):
            raise self.refused(f"'{text}' is not supported yet")
        try:
            return Action(text)
        except ValueError:
            raise self.refused(f"is one of {', '.join(Action)}, not '{text}'") from None

    def uuid(self) -> UUID:
        """A UUID."""
        text = self.text()
        try:
            return UUID(text)
        except ValueError:
            raise self.refused(f"'{text}' is no UUID") from None

    def texts(self) -> tuple[Atom, ...]:
        """The strings of a list."""
        if isinstance(self._value, Atom):
            raise self.refused("is a list: write [ '…' ]")
        for item in self._value.items:
            if isinstance(item, ListValue):
                raise ConfigError(item.position, f"{self._key} is a list of strings, not of lists")
        return tuple(item for item in self._value.items if isinstance(item, Atom))

    def disks(self) -> tuple[Disk, ...]:
        """A list of disk specifications."""
        disks = self._parsed(parse_disk, MAX_DEVICES)
        seen: set[int] = set()
        for atom, disk in disks:
            if disk.devid in seen:
                raise ConfigError(atom.position, f"disk: vdev '{disk.vdev}' is used twice")
            seen.add(disk.devid)
        return tuple(disk for _, disk in disks)

    def vifs(self) -> tuple[Vif, ...]:
        """A list of network interface specifications."""
        return tuple(vif for _, vif in self._parsed(parse_vif, MAX_DEVICES))

    def _parsed(self, parse: Callable[[str], T], most: int) -> list[tuple[Atom, T]]:
        """Each text of a list, and what it says. Raises ConfigError with all that are wrong."""
        found, mistakes = [], []
        atoms = self.texts()
        if len(atoms) > most:
            raise self.refused(f"has more than {most} entries")
        for atom in atoms:
            try:
                found.append((atom, parse(atom.text)))
            except ValueError as error:
                mistakes.append(ConfigError(atom.position, f"{self._key}: {error}"))
        if mistakes:
            raise all_of(mistakes)
        return found

    def guest_type(self) -> GuestType:
        """How the domain is virtualized."""
        return GuestType(self.must_be(*(kind.value for kind in GuestType)))

    def must_be(self, *allowed: str) -> str:
        """One of the texts that this toolstack acts upon."""
        text = self.text()
        if text not in allowed:
            raise self.refused(f"is {' or '.join(map(repr, allowed))}, not '{text}'")
        return text

    def refused(self, reason: str) -> ConfigError:
        """The error that says so of this key, at its value's place."""
        return ConfigError(self._value.position, f"{self._key} {reason}")


def unknown_key(key: str, known: frozenset[str]) -> str:
    """What to say about a key that is not served: that it will be, or which one was meant."""
    if key in UNSUPPORTED:
        return f"{key} is not supported yet"
    nearest = difflib.get_close_matches(key, known, n=1)
    return f"unknown key '{key}'" + (f"; did you mean '{nearest[0]}'?" if nearest else "")
