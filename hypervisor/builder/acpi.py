"""ACPI's tables for a PVH domain: as few as an operating system needs to find its processors and to look for nothing else.

    RSDP ──► XSDT ──┬─► MADT    the local APICs
                    └─► FADT    hardware-reduced: no timer, no buttons, no CMOS clock, no VGA ──► DSDT, empty

Source: ACPI specification 6.3, §5.2; Xen tools/libacpi.
"""

from __future__ import annotations

from typing import Annotated, Final

from hypervisor.public.layout import Struct, u8, u16, u32, u64
from hypervisor.public.types import PAGE_SIZE

OEM: Final = b"Xen"
LOCAL_APIC: Final = 0xFEE0_0000
_RSDP_OF_1_0: Final = 20
_XSDT, _MADT, _FADT, _DSDT = 0x80, 0x100, 0x800, 0xA00
"""Offsets in the page; the MADT has room for 200 processors."""
FADT_BOOT_ARCH: Final = 1 << 2 | 1 << 5  # VGA not present, CMOS RTC not present
FADT_FLAGS: Final = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 20  # WBINVD; no power, no sleep button; HW_REDUCED_ACPI


class acpi_rsdp(Struct, size=36, pack=1):
    """Root System Description Pointer, revision 2."""

    signature: Annotated[bytes, 8]
    checksum: u8  # of the first 20 bytes
    oem_id: Annotated[bytes, 6]
    revision: u8
    rsdt_address: u32
    length: u32
    xsdt_address: u64
    extended_checksum: u8
    reserved: Annotated[bytes, 3]


class acpi_header(Struct, size=36, pack=1):
    """Begins every other table."""

    signature: Annotated[bytes, 4]
    length: u32
    revision: u8
    checksum: u8
    oem_id: Annotated[bytes, 6]
    oem_table_id: Annotated[bytes, 8]
    oem_revision: u32
    creator_id: u32
    creator_revision: u32


class acpi_fadt(Struct, size=232, pack=1):
    """Fixed ACPI Description Table behind its header, with the fields that say something here."""

    firmware_ctrl: u32
    dsdt: u32
    unused: Annotated[bytes, 65]
    boot_arch: u16
    unused_2: u8
    flags: u32
    unused_3: Annotated[bytes, 24]
    x_dsdt: u64
    unused_4: Annotated[bytes, 120]


class acpi_madt(Struct, size=8, pack=1):
    """Multiple APIC Description Table behind its header."""

    local_apic_address: u32
    flags: u32


class acpi_local_apic(Struct, size=8, pack=1):
    """One processor in the MADT."""

    type: u8
    length: u8
    acpi_processor_id: u8
    apic_id: u8
    flags: u32


def acpi_page(at: int, nr_vcpus: int = 1) -> bytes:
    """The page of tables that lies at physical address `at`, which is the RSDP's. vCPU n has APIC id 2n, as on Xen."""
    cpus = b"".join(
        acpi_local_apic(type=0, length=8, acpi_processor_id=n, apic_id=2 * n, flags=1).pack()
        for n in range(nr_vcpus)
    )
    dsdt = at + _DSDT
    tables = {
        0: rsdp(at + _XSDT),
        _XSDT: table(b"XSDT", 1, (at + _FADT).to_bytes(8, "little") + (at + _MADT).to_bytes(8, "little")),
        _MADT: table(b"APIC", 2, acpi_madt(local_apic_address=LOCAL_APIC).pack() + cpus),
        _FADT: table(
            b"FACP",
            5,
            acpi_fadt(dsdt=dsdt, boot_arch=FADT_BOOT_ARCH, flags=FADT_FLAGS, x_dsdt=dsdt).pack(),
        ),
        _DSDT: table(b"DSDT", 2, b""),
    }
    page = bytearray(PAGE_SIZE)
    for offset, data in tables.items():
        page[offset : offset + len(data)] = data
    return bytes(page)


def rsdp(xsdt: int) -> bytes:
    """The pointer to the XSDT, with both of its checksums."""
    record = acpi_rsdp(signature=b"RSD PTR ", oem_id=OEM, revision=2, length=36, xsdt_address=xsdt)
    record.checksum = complement(record.pack()[:_RSDP_OF_1_0])
    record.extended_checksum = complement(record.pack())
    return record.pack()


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A table with its header and checksum."""
    header = acpi_header(
        signature=signature,
        length=acpi_header.sizeof + len(body),
        revision=revision,
        oem_id=OEM,
        oem_table_id=b"HVM",
        oem_revision=1,
    )
    header.checksum = complement(header.pack() + body)
    return header.pack() + body


def complement(data: bytes) -> int:
    """The byte that makes the sum of all bytes 0."""
    return -sum(data) & 0xFF
