"""What both kinds of contents share: records are looked up by their type up to END, some may come once, and some must."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from domains.control.description import DomainConfig
from domains.dom0.toolstack.domain_state import DomainState
from domains.dom0.toolstack.stream.framing import Record, RecordReader
from domains.dom0.toolstack.stream.libxc import LibxcRecord
from domains.dom0.toolstack.stream.pv_records import unpack_tsc_info
from domains.dom0.toolstack.xenctrl import XenCtrl
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.public.errno import XenError
from hypervisor.public.types import DomId


class Contents:
    """Those of one new domain, out of libxc's stream."""

    WHOSE: ClassVar[str]
    """A PV domain's, or a PVH one's."""
    NEEDED: ClassVar[tuple[LibxcRecord, ...]]
    """What must have come before END, in the order in which it is missed."""
    HANDLERS: ClassVar[Mapping[int, Callable[[Any, Record], Task[None]]]]
    """What each record behind STATIC_DATA_END does."""

    def __init__(
        self, kernel: Kernel, xen: XenCtrl, domid: DomId, config: DomainConfig, records: RecordReader
    ) -> None:
        self._kernel = kernel
        self._xen = xen
        self._domid = domid
        self._config = config
        self._records = records
        self._state = DomainState(kernel, xen, domid)
        self._found: dict[int, Record] = {}
        """By type, of those that may come once: the record, without its body."""

    def _take_all(self) -> Task[Record]:
        """Take the records up to END, which is the result. StreamError, XenError."""
        while (record := (yield from self._records.next())).type != LibxcRecord.END:
            handler = self.HANDLERS.get(record.type)
            if handler is None:
                raise record.wrong(f"it does not belong here in the stream of {self.WHOSE}")
            yield from handler(self, record)
        for kind in self.NEEDED:
            record.need(kind in self._found, f"no {kind.name} came before")
        return record

    def _once(self, record: Record) -> None:
        record.need(record.type not in self._found, "there was one already")
        self._found[record.type] = record.bare

    def _tsc_info(self, record: Record) -> Task[None]:
        self._once(record)
        try:
            self._state.set_tsc(unpack_tsc_info(record))
        except XenError as error:
            raise record.wrong(f"its clock cannot go on here: {error}") from None
        yield NEXT_TURN
