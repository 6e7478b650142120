"""The keys of xl.cfg(5): which there are, what type each has, and which this toolstack acts on.

A key that xl knows and this toolstack does not is refused as "not supported yet", for a guest whose
description is followed in part would surprise its owner. A key nobody knows is refused with the nearest one
that exists.
"""

import difflib
from pathlib import Path
from typing import Final
from uuid import UUID

from domains.control.description import MAX_NUMBER, PYTHON_PREFIX, Action, Disk, Vif, bad_name
from domains.dom0.toolstack.xlcfg.disk import parse_disk
from domains.dom0.toolstack.xlcfg.syntax import Atom, ConfigError, ListValue, Value
from domains.dom0.toolstack.xlcfg.vif import parse_vif

IGNORED: Final = frozenset(
    {"xend_suspend_evtchn_compat", "localtime", "rtc_timeoffset", "nographic", "vnc", "sdl", "loader"}
)
"""Keys that mean nothing to a PV domain without a display, or no longer; they are read over, as xl does."""

UNSUPPORTED: Final = frozenset(
    """
    acpi acpi_firmware acpi_laptop_slate acpi_s3 acpi_s4 altp2m altp2mhvm apic bios bios_path_override
    boot bootloader bootloader_args bootloader_restrict bootloader_user channel claim_mode cpuid cpus
    cpus_soft device_model device_model_args device_model_args_hvm device_model_args_pv
    device_model_override device_model_stubdomain_override device_model_stubdomain_seclabel
    device_model_user device_model_version device_tree display dm_restrict dtdev e820_host
    extratime firmware firmware_override gfx_passthru gic_version hap hdtype hpet hvm_pirq init_seclabel
    iomem ioports irqs keymap latency mca_caps mmio_hole ms_vm_genid msr_relaxed
    nestedhvm nomigrate nx on_soft_reset oos opengl p9 pae passthrough pci pci_msitranslate
    pci_permissive pci_power_mgmt pci_seize period pool pvcalls pvshim pvshim_cmdline pvshim_extra
    pvshim_path rdm rdm_mem_boundary seclabel serial shadow_memory slice smbios smbios_firmware soundhw
    spice spice_clipboard_sharing spice_image_compression spice_streaming_video spiceagent_mouse
    spicedisable_ticketing spicehost spicepasswd spiceport spicetls_port spiceusbredirection
    spicevdagent stdvga stubdomain_cmdline stubdomain_kernel stubdomain_memory stubdomain_ramdisk tee
    timer_mode tsc_mode usb usbctrl usbdev usbdevice usbversion vdispl vendor_device vfb vga videoram
    vif2 viridian virtio vkb vkb_device vmtrace_buf_kb vncdisplay vnclisten vncpasswd vncunused
    vncviewer vnuma vpmu vpt_align vsnd vtpm vuart xauthority xen_platform_pci
    """.split()  # noqa: SIM905
)


class Reader:
    """Turns the value of one key into a typed one; every refusal names the key and stands at its position."""

    def __init__(self, key: str, value: Value, folder: Path) -> None:
        """`folder`: what relative paths are relative to."""
        self._key = key
        self._value = value
        self._folder = folder

    def text(self) -> str:
        if not isinstance(self._value, Atom):
            raise self.refused("is a string, not a list")
        if "\0" in self._value.text:
            raise self.refused("contains a NUL character")
        return self._value.text

    def name(self) -> str:
        name = self.text()
        if (why := bad_name(name)) is not None:
            raise self.refused(why)
        return name

    def number(self, minimum: int = 0, maximum: int = MAX_NUMBER) -> int:
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
        text = self.text()
        if not text:
            raise self.refused("is empty")
        return str(self._folder / Path(text).expanduser())

    def kernel(self) -> str:
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
        text = self.text()
        if text in ("coredump-destroy", "coredump-restart", "soft-reset"):
            raise self.refused(f"'{text}' is not supported yet")
        try:
            return Action(text)
        except ValueError:
            raise self.refused(f"is one of {', '.join(Action)}, not '{text}'") from None

    def uuid(self) -> UUID:
        text = self.text()
        try:
            return UUID(text)
        except ValueError:
            raise self.refused(f"'{text}' is no UUID") from None

    def texts(self) -> tuple[Atom, ...]:
        if isinstance(self._value, Atom):
            raise self.refused("is a list: write [ '…' ]")
        for item in self._value.items:
            if isinstance(item, ListValue):
                raise ConfigError(item.position, f"{self._key} is a list of strings, not of lists")
        return tuple(item for item in self._value.items if isinstance(item, Atom))

    def disks(self) -> tuple[Disk, ...]:
        disks: dict[int, Disk] = {}
        for item in self.texts():
            try:
                disk = parse_disk(item.text)
            except ValueError as error:
                raise ConfigError(item.position, f"disk: {error}") from None
            if disk.devid in disks:
                raise ConfigError(item.position, f"disk: vdev '{disk.vdev}' is used twice")
            disks[disk.devid] = disk
        return tuple(disks.values())

    def vifs(self) -> tuple[Vif, ...]:
        vifs = []
        for item in self.texts():
            try:
                vifs.append(parse_vif(item.text))
            except ValueError as error:
                raise ConfigError(item.position, f"vif: {error}") from None
        return tuple(vifs)

    def must_be(self, *allowed: str) -> str:
        text = self.text()
        if text not in allowed:
            raise self.refused(f"'{text}' is not supported yet; use {' or '.join(map(repr, allowed))}")
        return text

    def refused(self, reason: str) -> ConfigError:
        return ConfigError(self._value.position, f"{self._key} {reason}")


def unknown_key(key: str, known: frozenset[str]) -> str:
    """What to say about a key that is not served: that it will be, or which one was meant."""
    if key in UNSUPPORTED:
        return f"{key} is not supported yet"
    nearest = difflib.get_close_matches(key, known, n=1)
    return f"unknown key '{key}'" + (f"; did you mean '{nearest[0]}'?" if nearest else "")
