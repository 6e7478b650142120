"""What a stream says of a guest before all else: the CPU that it has seen, which must be the one that it sees here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from domains.dom0.toolstack.domain_state import DomainState
from domains.dom0.toolstack.stream.framing import Record, RecordReader
from domains.dom0.toolstack.stream.libxc import LibxcRecord
from domains.kernel.tasks import Task
from hypervisor.public.arch_x86.xen import xen_cpuid_leaf, xen_msr_entry

ENTRY_SIZES: Final = {
    LibxcRecord.X86_CPUID_POLICY: xen_cpuid_leaf.sizeof,
    LibxcRecord.X86_MSR_POLICY: xen_msr_entry.sizeof,
}
Found = dict[int, tuple[Record, bytes]]
"""By type: the record, without its body, and the body."""


def read_static_data(
    records: RecordReader, state: DomainState, others: Mapping[int, Callable[[Record], None]]
) -> Task[None]:
    """Take all records up to STATIC_DATA_END; `others` are those that there must be besides a CPU's, and what is done with them.
    StreamError.
    """
    found: Found = {}
    while (record := (yield from records.next())).type != LibxcRecord.STATIC_DATA_END:
        record.need(record.type in others or record.type in ENTRY_SIZES, "it comes before STATIC_DATA_END")
        record.need(record.type not in found, "there was one already")
        found[record.type] = record.bare, bytes(record.body)
        if record.type in others:
            others[record.type](record)
    for kind in others:
        record.need(kind in found, f"no {LibxcRecord(kind).name} came before")
    set_policy(state, found)


def set_policy(state: DomainState, found: Found) -> None:
    """StreamError: this machine's CPU is another one."""
    for kind, size in ENTRY_SIZES.items():
        if kind not in found:
            continue
        record, content = found[kind]
        record.need(not len(content) % size, f"its entries have {size} bytes each")
        leaves, msrs = (content, b"") if kind == LibxcRecord.X86_CPUID_POLICY else (b"", content)
        different = state.set_policy(leaves, msrs)
        record.need(different is None, f"the guest was on another CPU: {different} is not as on this machine")
