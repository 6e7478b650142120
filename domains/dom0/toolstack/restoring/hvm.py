"""A PVH domain's contents out of libxc's stream: which record may come when, and what it says.

    static data     X86_CPUID_POLICY, X86_MSR_POLICY; STATIC_DATA_END
    then, at will   PAGE_DATA …; X86_TSC_INFO, HVM_CONTEXT, HVM_PARAMS
    END             parameters are set, with new ports for the store and the console; Xen checks and takes the vCPUs' state

A page lies where the guest has it, so nothing is translated; page tables are pages like all others. Whatever is missing, twice,
in the wrong place, or refused by Xen is a StreamError that names its record.
Source: Xen docs/specs/libxc-migration-stream.pandoc, tools/libs/guest/xg_sr_restore.c, xg_sr_restore_x86_hvm.c.
"""

from __future__ import annotations

from typing import Final

from domains.control.description import DomainConfig
from domains.dom0.toolstack.builder.hvm_state import HvmState
from domains.dom0.toolstack.builder.memory_map import set_memory_map
from domains.dom0.toolstack.builder.rings import Built
from domains.dom0.toolstack.restoring.contents import Contents
from domains.dom0.toolstack.restoring.hvm_memory import HvmRestoredMemory
from domains.dom0.toolstack.restoring.static_data import read_static_data
from domains.dom0.toolstack.stream import page_data
from domains.dom0.toolstack.stream.framing import Record, RecordReader
from domains.dom0.toolstack.stream.hvm_records import unpack_params
from domains.dom0.toolstack.stream.libxc import LibxcRecord
from domains.dom0.toolstack.xenctrl import MAXMEM_CONSTANT, XenCtrl
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.builder.hvm_layout import memory_map
from hypervisor.public.errno import XenError
from hypervisor.public.hvm.params import (
    HVM_PARAM_CONSOLE_EVTCHN,
    HVM_PARAM_CONSOLE_PFN,
    HVM_PARAM_STORE_EVTCHN,
    HVM_PARAM_STORE_PFN,
)
from hypervisor.public.types import PAGES_PER_MIB, DomId, Mfn

DOM0: Final = DomId(0)
RINGS: Final = (int(HVM_PARAM_STORE_PFN), int(HVM_PARAM_CONSOLE_PFN))


class HvmRestorer(Contents):
    """Fills one new domain."""

    WHOSE = "a PVH domain"
    NEEDED = (LibxcRecord.X86_TSC_INFO, LibxcRecord.HVM_CONTEXT, LibxcRecord.HVM_PARAMS)

    def __init__(
        self, kernel: Kernel, xen: XenCtrl, domid: DomId, config: DomainConfig, records: RecordReader
    ) -> None:
        super().__init__(kernel, xen, domid, config, records)
        self._hvm = HvmState(kernel, domid)
        self._memory = HvmRestoredMemory(kernel, xen, domid)
        self._context = b""
        self._params: dict[int, int] = {}

    def restore(self) -> Task[Built]:
        """Read the stream up to END. StreamError, XenError."""
        yield from read_static_data(self._records, self._state, {})
        config, xen, domid = self._config, self._xen, self._domid
        xen.max_vcpus(domid, config.maxvcpus)
        xen.max_mem(domid, config.maxmem * 1024 + MAXMEM_CONSTANT)
        if config.is_shadowed:
            xen.set_paging_mempool_size(domid, config.shadow_mib << 20)
        set_memory_map(self._kernel.hypercalls, domid, memory_map(config.maxmem * PAGES_PER_MIB))
        yield from self._take_all()
        return (yield from self._complete())

    # --- records -----------------------------------------------------------------------------------

    def _page_data(self, record: Record) -> Task[None]:
        return self._memory.page_data(record, page_data.unpack(record))

    def _hvm_context(self, record: Record) -> Task[None]:
        self._once(record)
        self._context = bytes(record.body)
        yield NEXT_TURN

    def _hvm_params(self, record: Record) -> Task[None]:
        self._once(record)
        self._params = unpack_params(record)
        yield NEXT_TURN

    HANDLERS = {
        LibxcRecord.PAGE_DATA: _page_data,
        LibxcRecord.X86_TSC_INFO: Contents._tsc_info,
        LibxcRecord.HVM_CONTEXT: _hvm_context,
        LibxcRecord.HVM_PARAMS: _hvm_params,
    }

    # --- the end -----------------------------------------------------------------------------------

    def _complete(self) -> Task[Built]:
        store, console = self._rings()
        yield NEXT_TURN
        built = self._set_params(store, console)
        context = self._found[LibxcRecord.HVM_CONTEXT]
        try:
            self._hvm.set_context(self._context)
        except XenError as error:
            raise context.wrong(f"Xen refuses this state of the vCPUs: {error}") from None
        context.need(self._state.is_online(0), "it has no registers of vCPU 0")
        self._hvm.seed_grants(built.store_mfn, built.console_mfn)
        yield NEXT_TURN
        return built

    def _rings(self) -> tuple[int, int]:
        """The guest's pages of the rings to the store and to the console. The store's begins anew."""
        record = self._found[LibxcRecord.HVM_PARAMS]
        for param, what in zip(RINGS, ("xenstore", "the console"), strict=True):
            gfn = self._params.get(param)
            record.need(gfn is not None and self._memory.has(gfn), f"it names no page for the ring of {what}")
        store, console = (self._params[param] for param in RINGS)
        self._memory.clear(store)
        return store, console

    def _set_params(self, store: int, console: int) -> Built:
        record = self._found[LibxcRecord.HVM_PARAMS]
        ports = [self._xen.alloc_unbound(self._domid, DOM0) for _ in RINGS]
        events = dict(zip((HVM_PARAM_STORE_EVTCHN, HVM_PARAM_CONSOLE_EVTCHN), ports, strict=True))
        for index, value in (self._params | {int(param): port for param, port in events.items()}).items():
            try:
                self._hvm.set_param(index, value)
            except XenError as error:
                raise record.wrong(f"Xen refuses parameter {index} as {value:#x}: {error}") from None
        return Built(Mfn(store), ports[0], Mfn(console), ports[1])
