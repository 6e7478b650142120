"""What `type = "hvm"` can mean without a device model: a firmware of the owner's, started as a PVH kernel is.

hvmloader, which xl starts by default, is written for the emulated machine of a device model; there is none here. A
`firmware_override` that is a PVH kernel needs none: with it the domain is as if its description said `type = "pvh"` and
`kernel`. What asks for emulated devices, or for more of the processor than there is, is refused; `viridian = 1`, an offer that a
guest looks for by CPUID, is ignored. Source: xl.cfg(5).
"""

from collections.abc import Iterator
from typing import Final

from domains.control.description import GuestType
from domains.dom0.toolstack.xlcfg.syntax import Atom, ConfigError, ListValue, Setting, Value

HVM: Final = "hvm"
DEVICES: Final = frozenset(
    """
    acpi_firmware acpi_laptop_slate bios_path_override device_model_stubdomain_override gfx_passthru hdtype opengl
    sdl serial smbios_firmware soundhw spice spiceusbredirection spicevdagent stdvga stubdomain_kernel usb usbdevice
    usbversion vendor_device vga videoram vnc xen_platform_pci
    """.split()  # noqa: SIM905
)
"""Keys that ask for emulated devices, unless they say no."""
PROCESSOR: Final = {
    "altp2m": "several maps of a domain's memory are not supported yet",
    "altp2mhvm": "several maps of a domain's memory are not supported yet",
    "nestedhvm": "virtualization within a domain is not supported yet",
}
"""Keys that ask for what the processor does not have, unless they say no, and what to say."""
OF_PV: Final = ("bootloader", "firmware")
"""Keys that say how a PV guest boots: libxl skips the first with an HVM guest, to which the second means a BIOS."""
NO: Final = frozenset({"", "0", "none", "no", "disabled"})


def without_device_model(settings: list[Setting]) -> tuple[list[Setting], list[ConfigError]]:
    """The settings as those of a PVH domain, if they are an HVM domain's, and what is wrong with them."""
    named = {setting.key: setting for setting in settings}
    kind = named.get("type", named.get("builder"))
    text = getattr(kind.value, "text", "") if kind is not None else ""
    if text not in (HVM, GuestType.PVH):
        return settings, []
    mistakes = list(too_much(settings, device_model=text == HVM))
    if kind is None or text != HVM:
        return settings, mistakes
    firmware, kernel = named.get("firmware_override"), named.get("kernel")
    if kernel is not None:
        mistakes.append(
            ConfigError(
                kernel.value.position, "kernel of an HVM domain is started by a device model; there is none"
            )
        )
    if firmware is None:
        why = "'hvm' needs a device model, and there is none; firmware_override may name a PVH kernel"
        mistakes.append(ConfigError(kind.value.position, f"{kind.key} {why}"))
        firmware = kind  # nobody reads what is refused
    rest = [s for s in settings if s.key not in ("type", "builder", "kernel", "firmware_override", *OF_PV)]
    pvh = Setting("type", Atom(str(GuestType.PVH), kind.value.position), kind.position)
    return [*rest, pvh, firmware._replace(key="kernel")], mistakes


def too_much(settings: list[Setting], *, device_model: bool) -> Iterator[ConfigError]:
    """What is asked for and not there; `device_model`: the keys of an HVM domain mean something."""
    for setting in settings:
        if says_no(setting.value):
            continue
        if setting.key in PROCESSOR:
            yield ConfigError(setting.value.position, f"{setting.key}: {PROCESSOR[setting.key]}")
        elif device_model and setting.key == "viridian" and isinstance(setting.value, ListValue):
            yield ConfigError(
                setting.value.position, "viridian: parts of Hyper-V's interface are not supported yet"
            )
        elif device_model and setting.key in DEVICES:
            yield ConfigError(
                setting.value.position, f"{setting.key} asks for a device model, and there is none"
            )


def says_no(value: Value) -> bool:
    """Whether a value asks for nothing."""
    return value.text.lower() in NO if isinstance(value, Atom) else not value.items
