"""The keys of xl.cfg(5): which there are, and which this toolstack acts on, ignores, or refuses, and why.

    acted on     KEYS        how the value is read, and what it means
    ignored      IGNORED     xl ignores it for a domain without a device model, or it changes nothing here: a warning
    refused      REFUSED     xl acts on it and this toolstack does not: a guest whose description is followed in part would
                             surprise its owner. A value that asks for nothing, such as `pci = []`, is ignored
    others       unknown     xl never looks at them (it asks for keys by name: tools/xl/xl_parse.c): a warning. One that looks
                             like a slip of the pen is refused, and so are all where there is no xl to follow: in a
                             topology and on the command line

`scripts/keys-table` writes docs/xl-cfg-keys.md from these tables.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from domains.control.description import (
    MAX_GRANT_VERSION,
    MAX_MEMORY,
    MAX_SHADOW_MEMORY,
    MAX_VCPUS,
    MAX_WEIGHT,
)
from domains.dom0.toolstack.xlcfg.reader import Reader


class Key(NamedTuple):
    """A key that is acted on. `means`: in a line, for the docs."""

    read: Callable[[Reader], Any]
    means: str

    def __call__(self, reader: Reader) -> Any:
        """The value. Raises ConfigError."""
        return self.read(reader)


def number(minimum: int, maximum: int | None, means: str) -> Key:
    """A key whose value is a number within bounds, both included."""
    if maximum is None:
        return Key(lambda value: value.number(minimum), means)
    return Key(lambda value: value.number(minimum, maximum), means)


KEYS: Final[dict[str, Key]] = {
    "name": Key(Reader.name, "the domain's name"),
    "kernel": Key(Reader.kernel, "an ELF file, a bzImage, or a Python class: `python:module:Class`"),
    "bootloader": Key(
        Reader.bootloader,
        "`pygrub`: the kernel that the menu in its first disk names; `pvgrub`: PV GRUB; by path too",
    ),
    "firmware": Key(Reader.firmware, "`pvgrub64`, `pvgrub32`: PV GRUB as the guest's kernel"),
    "ramdisk": Key(Reader.path, "the initial RAM disk"),
    "cmdline": Key(Reader.text, "the kernel's command line"),
    "root": Key(Reader.text, "without `cmdline`: `root=` and this before `extra`"),
    "extra": Key(Reader.text, "without `cmdline`: the command line"),
    "memory": number(1, MAX_MEMORY, "MiB at boot"),
    "maxmem": number(1, MAX_MEMORY, "MiB at most"),
    "vcpus": number(1, MAX_VCPUS, "vCPUs online at boot"),
    "maxvcpus": number(1, MAX_VCPUS, "vCPUs at most"),
    "uuid": Key(Reader.uuid, "the domain's UUID"),
    "disk": Key(Reader.disks, "disks, as xl-disk-configuration(5)"),
    "vif": Key(Reader.vifs, "network interfaces, as xl-network-configuration(5)"),
    "type": Key(Reader.guest_type, "`pv` or `pvh`; `hvm` with a `firmware_override` that is a PVH kernel"),
    "hap": Key(Reader.boolean, "of a PVH domain: 1 nested paging, 0 shadow paging"),
    "shadow_memory": number(1, MAX_SHADOW_MEMORY, "of a PVH domain with `hap = 0`: MiB for its page tables"),
    "builder": Key(Reader.builder, "the old name of `type`: `generic` is `pv`"),
    "on_poweroff": Key(Reader.action, "what follows a power-off"),
    "on_reboot": Key(Reader.action, "what follows a reboot"),
    "on_crash": Key(Reader.action, "what follows a crash"),
    "on_watchdog": Key(Reader.action, "what follows when the watchdog was not fed"),
    "on_soft_reset": Key(Reader.action, "what follows when it asks for a soft reset"),
    "cpus": Key(Reader.affinities, "CPUs that the vCPUs may run on, one list for all or one for each"),
    "cpus_soft": Key(Reader.affinities, "CPUs that they should run on"),
    "pool": Key(Reader.text, "the CPU pool"),
    "period": Key(Reader.number, "of RTDS, µs"),
    "extratime": Key(Reader.boolean, "of RTDS: it may use idle time"),
    "cpu_weight": number(1, MAX_WEIGHT, "its share of the CPUs under credit and credit2"),
    "cap": number(0, 100 * MAX_VCPUS, "percent of one CPU at most; 0: no limit"),
    "max_grant_frames": number(1, None, "pages of its grant table"),
    "max_maptrack_frames": number(0, None, "pages to keep track of mapped grants"),
    "max_grant_version": number(1, MAX_GRANT_VERSION, "versions of the grant table it may choose"),
    "max_event_channels": number(1, None, "its highest event channel"),
    "driver_domain": Key(Reader.boolean, "it may hold back ends of other domains' devices"),
}
"""Every key that is acted on."""

HVM_KEYS: Final = frozenset(
    """
    acpi acpi_firmware acpi_laptop_slate acpi_s3 acpi_s4 altp2m altp2m_count altp2mhvm apic bios bios_path_override boot
    device_model device_model_args device_model_override device_model_stubdomain_override
    device_model_stubdomain_seclabel device_model_user device_model_version dm_restrict firmware_override gfx_passthru
    hap hdtype hpet hvm_pirq keymap mca_caps mmio_hole ms_vm_genid nestedhvm nx oos opengl pae rdm rdm_mem_boundary serial
    shadow_memory smbios smbios_firmware soundhw spice spice_clipboard_sharing spice_image_compression
    spice_streaming_video spiceagent_mouse spicedisable_ticketing spicehost spicepasswd spiceport spicetls_port
    spiceusbredirection spicevdagent stdvga stubdomain_cmdline stubdomain_kernel stubdomain_memory stubdomain_ramdisk
    timer_mode usb usbdevice usbversion vendor_device vga videoram viridian vkb_device vpt_align xen_platform_pci
    xen_platform_pci_bar_uc localtime rtc_timeoffset
    """.split()  # noqa: SIM905
)
DISPLAY_KEYS: Final = frozenset(
    """
    display nographic sdl vfb vnc vncconsole vncdisplay vnclisten vncpasswd vncunused vncviewer xauthority
    """.split()  # noqa: SIM905
)
ARM_KEYS: Final = frozenset(
    """
    arm_sci device_tree dtdev gic_version llc_colors nr_spis sve tee trap_unmapped_accesses vuart
    """.split()  # noqa: SIM905
)
PCI_KEYS: Final = ("pci_msitranslate", "pci_permissive", "pci_power_mgmt", "pci_seize")
XM_KEYS: Final = """
    autostart console cpu cpu_cap features gateway interface ip localhost machine_address_size netif netmask nics nfs_root
    nfs_server on_xend_start on_xend_stop restart suppress_spurious_page_faults tpmif vcpu_avail vcpus_params vhpt vncview
    """.split()  # noqa: SIM905
OTHER_KEYS: Final = {
    "bootloader_restrict": "the boot loader runs in the guest, not in Dom0",
    "bootloader_user": "the boot loader runs in the guest, not in Dom0",
    "dhcp": "no part of Xen's reads it",
    "hostname": "no part of Xen's reads it",
    "loader": "a guest that needs one is built otherwise",
    "nomigrate": "no domain migrates by itself",
    "seclabel": "there is no security module",
    "init_seclabel": "there is no security module",
    "tsc_mode": "a guest's TSC is the emulated CPU's, in every mode",
    **dict.fromkeys(("slice", "latency"), "it was the SEDF scheduler's, which Xen has no more"),
    "xend_suspend_evtchn_compat": "it means nothing to this toolstack",
}
IGNORED: Final = {
    **dict.fromkeys(HVM_KEYS, "it means nothing to a domain without a device model"),
    **dict.fromkeys(DISPLAY_KEYS, "there is no display"),
    **dict.fromkeys(ARM_KEYS, "it is for Arm"),
    **dict.fromkeys(PCI_KEYS, "there is no device to pass through"),
    **dict.fromkeys(("hap", "shadow_memory"), "a PV domain runs on its own page tables"),
    **dict.fromkeys(XM_KEYS, "it was xm's; no part of xl reads it"),
    **OTHER_KEYS,
}
"""Keys that are ignored, and why."""

NO_BACK_END: Final = "there is no such back end; leave it out"
NO_HOST_DEVICE: Final = "devices of the host cannot be passed through; leave it out"
REFUSED: Final = {
    "bootloader_args": "there are none here; name kernel and ramdisk as files of the host",
    "channel": NO_BACK_END,
    "cpuid": "what CPUID says cannot be chosen; leave it out",
    "e820_host": "there is no memory map of a host to hand on; leave it out",
    **dict.fromkeys(("iomem", "ioports", "irqs", "passthrough", "pci"), NO_HOST_DEVICE),
    "msr_relaxed": "an unknown MSR raises #GP here; leave it out",
    **dict.fromkeys(
        ("p9", "pvcalls", "usbctrl", "usbdev", "vdispl", "vif2", "virtio", "vkb", "vsnd", "vtpm"), NO_BACK_END
    ),
    **dict.fromkeys(
        ("pvshim", "pvshim_cmdline", "pvshim_extra", "pvshim_path"),
        'a PV guest needs no shim here; write type = "pv"',
    ),
    "vmtrace_buf_kb": "the emulated CPU has no processor trace; leave it out",
    "vnuma": "a machine has one NUMA node; leave it out",
    "vpmu": "the emulated CPU has no performance counters; leave it out",
    "xenstore_feature_mask": "xenstored offers the same to every domain; leave it out",
    "xenstore_quota": "xenstored's quotas are the same for every domain; leave it out",
}
"""Keys that xl acts upon and this toolstack does not, and what to do instead."""
UNSUPPORTED: Final = frozenset(REFUSED)
OF_PVH: Final = frozenset({"hap", "shadow_memory"})
"""Keys that mean something to a PVH domain alone."""


SLIP: Final = 0.75
"""How like a key that is acted on an unknown one may be before it is taken for a slip of the pen; 1 is the same."""


def nearest(key: str) -> str | None:
    """The key acted on that a slip of the pen can have made `key` of."""
    from difflib import get_close_matches

    found = get_close_matches(key, list(KEYS), n=1, cutoff=SLIP)
    return found[0] if found else None
