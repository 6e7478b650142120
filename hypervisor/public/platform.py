"""What the hardware domain asks of the machine: numbers, setting the clock. Source: Xen public/platform.h."""

from enum import IntEnum
from typing import Annotated, Final

from hypervisor.public.layout import Struct, Union, u32, u64


class PlatformOp(IntEnum):
    """`cmd` of xen_platform_op."""

    XENPF_settime32 = 17
    XENPF_settime64 = 62
    XENPF_settime = 62
    XENPF_add_memtype = 31
    XENPF_del_memtype = 32
    XENPF_read_memtype = 33
    XENPF_microcode_update = 35
    XENPF_platform_quirk = 39
    XENPF_efi_runtime_call = 49
    XENPF_firmware_info = 50
    XENPF_enter_acpi_sleep = 51
    XENPF_change_freq = 52
    XENPF_getidletime = 53
    XENPF_set_processor_pminfo = 54
    XENPF_get_cpuinfo = 55
    XENPF_get_cpu_version = 48
    XENPF_cpu_online = 56
    XENPF_cpu_offline = 57
    XENPF_cpu_hotadd = 58
    XENPF_mem_hotadd = 59
    XENPF_core_parking = 60
    XENPF_resource_op = 61
    XENPF_get_symbol = 63


(
    XENPF_settime32, XENPF_settime64, XENPF_settime, XENPF_add_memtype, XENPF_del_memtype,
    XENPF_read_memtype, XENPF_microcode_update, XENPF_platform_quirk, XENPF_efi_runtime_call,
    XENPF_firmware_info, XENPF_enter_acpi_sleep, XENPF_change_freq, XENPF_getidletime,
    XENPF_set_processor_pminfo, XENPF_get_cpuinfo, XENPF_get_cpu_version, XENPF_cpu_online,
    XENPF_cpu_offline, XENPF_cpu_hotadd, XENPF_mem_hotadd, XENPF_core_parking, XENPF_resource_op,
    XENPF_get_symbol,
) = PlatformOp.__members__.values()  # fmt: skip

XENPF_INTERFACE_VERSION: Final = 0x3000001


class xenpf_settime32(Struct, size=16):
    """Set the wall clock, seconds in 32 bits."""

    secs: u32  # IN
    nsecs: u32  # IN
    system_time: u64  # IN: when that was


class xenpf_settime64(Struct, size=24):
    """Set the wall clock."""

    secs: u64  # IN
    nsecs: u32  # IN
    mbz: u32  # 0
    system_time: u64  # IN: when that was


class xen_platform_op_u(Union, size=128):
    """`u` of xen_platform_op; the other arms are not needed here."""

    settime32: xenpf_settime32
    settime64: xenpf_settime64
    pad: Annotated[bytes, 128]


class xen_platform_op(Struct, size=136):
    """Argument of platform_op."""

    cmd: u32  # XENPF_*
    interface_version: u32  # XENPF_INTERFACE_VERSION
    u: xen_platform_op_u
