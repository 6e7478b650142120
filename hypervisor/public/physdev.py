"""Physical interrupts and PCI devices, as far as a domain may drive them.

Here: the operations a PV kernel uses at boot and for real devices. Source: Xen public/physdev.h.
"""

from enum import IntEnum, IntFlag
from typing import Final

from hypervisor.public.layout import Struct, i32, u8, u16, u32, u64
from hypervisor.public.types import XEN_GUEST_HANDLE, domid_t, unsigned_long, xen_pfn_t


class PhysdevOp(IntEnum):
    """First argument of physdev_op; the second points to the operation's argument."""

    PHYSDEVOP_eoi = 12
    PHYSDEVOP_pirq_eoi_gmfn_v1 = 17
    PHYSDEVOP_pirq_eoi_gmfn_v2 = 28
    PHYSDEVOP_irq_status_query = 5
    PHYSDEVOP_set_iopl = 6
    PHYSDEVOP_set_iobitmap = 7
    PHYSDEVOP_apic_read = 8
    PHYSDEVOP_apic_write = 9
    PHYSDEVOP_alloc_irq_vector = 10
    PHYSDEVOP_free_irq_vector = 11
    PHYSDEVOP_map_pirq = 13
    PHYSDEVOP_unmap_pirq = 14
    PHYSDEVOP_manage_pci_add = 15
    PHYSDEVOP_manage_pci_remove = 16
    PHYSDEVOP_restore_msi = 19
    PHYSDEVOP_manage_pci_add_ext = 20
    PHYSDEVOP_setup_gsi = 21
    PHYSDEVOP_get_free_pirq = 23
    PHYSDEVOP_pci_mmcfg_reserved = 24
    PHYSDEVOP_pci_device_add = 25
    PHYSDEVOP_pci_device_remove = 26
    PHYSDEVOP_restore_msi_ext = 27
    PHYSDEVOP_prepare_msix = 30
    PHYSDEVOP_release_msix = 31
    PHYSDEVOP_dbgp_op = 29


(
    PHYSDEVOP_eoi, PHYSDEVOP_pirq_eoi_gmfn_v1, PHYSDEVOP_pirq_eoi_gmfn_v2,
    PHYSDEVOP_irq_status_query, PHYSDEVOP_set_iopl, PHYSDEVOP_set_iobitmap, PHYSDEVOP_apic_read,
    PHYSDEVOP_apic_write, PHYSDEVOP_alloc_irq_vector, PHYSDEVOP_free_irq_vector, PHYSDEVOP_map_pirq,
    PHYSDEVOP_unmap_pirq, PHYSDEVOP_manage_pci_add, PHYSDEVOP_manage_pci_remove,
    PHYSDEVOP_restore_msi, PHYSDEVOP_manage_pci_add_ext, PHYSDEVOP_setup_gsi,
    PHYSDEVOP_get_free_pirq, PHYSDEVOP_pci_mmcfg_reserved, PHYSDEVOP_pci_device_add,
    PHYSDEVOP_pci_device_remove, PHYSDEVOP_restore_msi_ext, PHYSDEVOP_prepare_msix,
    PHYSDEVOP_release_msix, PHYSDEVOP_dbgp_op,
) = PhysdevOp.__members__.values()  # fmt: skip


class IrqStatus(IntFlag):
    """`flags` of physdev_irq_status_query."""

    XENIRQSTAT_needs_eoi = 1 << 0
    XENIRQSTAT_shared = 1 << 1


XENIRQSTAT_needs_eoi, XENIRQSTAT_shared = IrqStatus.__members__.values()


class MapPirqType(IntEnum):
    """`type` of physdev_map_pirq and physdev_get_free_pirq."""

    MAP_PIRQ_TYPE_MSI = 0
    MAP_PIRQ_TYPE_GSI = 1
    MAP_PIRQ_TYPE_UNKNOWN = 2
    MAP_PIRQ_TYPE_MSI_SEG = 3
    MAP_PIRQ_TYPE_MULTI_MSI = 4


(
    MAP_PIRQ_TYPE_MSI, MAP_PIRQ_TYPE_GSI, MAP_PIRQ_TYPE_UNKNOWN, MAP_PIRQ_TYPE_MSI_SEG,
    MAP_PIRQ_TYPE_MULTI_MSI,
) = MapPirqType.__members__.values()  # fmt: skip


class PciDeviceFlags(IntFlag):
    """`flags` of physdev_pci_device_add."""

    XEN_PCI_DEV_EXTFN = 1 << 0
    XEN_PCI_DEV_VIRTFN = 1 << 1
    XEN_PCI_DEV_PXM = 1 << 2


XEN_PCI_DEV_EXTFN, XEN_PCI_DEV_VIRTFN, XEN_PCI_DEV_PXM = PciDeviceFlags.__members__.values()

XEN_PCI_MMCFG_RESERVED: Final = 1


class physdev_eoi(Struct, size=4):
    """The guest has handled an interrupt."""

    irq: u32  # IN


class physdev_pirq_eoi_gmfn(Struct, size=8):
    """A page of one bit per pirq that needs PHYSDEVOP_eoi."""

    gmfn: xen_pfn_t  # IN


class physdev_irq_status_query(Struct, size=8):
    """Whether a pirq needs PHYSDEVOP_eoi."""

    irq: u32  # IN
    flags: u32  # OUT: XENIRQSTAT_*


class physdev_set_iopl(Struct, size=4):
    """I/O privilege level of the calling vCPU."""

    iopl: u32  # IN: 0-3


class physdev_set_iobitmap(Struct, size=16):
    """Ports that user space of the calling vCPU may use."""

    bitmap: XEN_GUEST_HANDLE  # IN
    nr_ports: u32  # IN


class physdev_apic(Struct, size=16):
    """One register of the I/O APIC."""

    apic_physbase: unsigned_long  # IN
    reg: u32  # IN
    value: u32  # IN or OUT


class physdev_irq(Struct, size=8):
    """A vector for an interrupt."""

    irq: u32  # IN
    vector: u32  # OUT


class physdev_map_pirq(Struct, size=40):
    """A pirq for a machine interrupt or an MSI."""

    domid: domid_t  # IN
    type: i32  # IN: MAP_PIRQ_TYPE_*
    index: i32  # IN
    pirq: i32  # IN: negative for any; OUT
    bus: i32  # IN (MSI)
    devfn: i32  # IN (MSI)
    entry_nr: i32  # IN (MSI)
    table_base: u64  # IN (MSI)


class physdev_unmap_pirq(Struct, size=8):
    """Undo physdev_map_pirq."""

    domid: domid_t  # IN
    pirq: i32  # IN


class physdev_setup_gsi(Struct, size=8):
    """How a machine interrupt is signalled."""

    gsi: i32  # IN
    triggering: u8  # IN: 1 is level
    polarity: u8  # IN: 1 is active low


class physdev_get_free_pirq(Struct, size=8):
    """Reserve a pirq."""

    type: i32  # IN
    pirq: u32  # OUT


class physdev_pci_mmcfg_reserved(Struct, size=16):
    """Where the configuration space of a range of buses lies."""

    address: u64  # IN
    segment: u16
    start_bus: u8
    end_bus: u8
    flags: u32  # IN: XEN_PCI_MMCFG_RESERVED


class physdev_pci_device_add_physfn(Struct, size=2):
    """`physfn` of physdev_pci_device_add."""

    bus: u8
    devfn: u8


class physdev_pci_device_add(Struct, size=12):
    """Tell Xen of a device; an array of u32 follows (`optarr`): the proximity domain (PXM)."""

    seg: u16  # IN
    bus: u8  # IN
    devfn: u8  # IN
    flags: u32  # IN: XEN_PCI_DEV_*
    physfn: physdev_pci_device_add_physfn  # IN (VIRTFN)


class physdev_pci_device(Struct, size=4):
    """One PCI device."""

    seg: u16
    bus: u8
    devfn: u8
