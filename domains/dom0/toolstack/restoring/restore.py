"""xl restore: a domain is made of a file that `save` has written.

    xl's header: the description ─► libxl's header ─► LIBXC_CONTEXT ─► the domain is made, filled out of libxc's records ─► END
    ─► its devices ─► it runs

Whatever is wrong with the file, nothing of the domain is left. Source: Xen tools/xl/xl_vmcontrol.c (create_domain),
tools/libs/light/libxl_stream_read.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from domains.control.description import DomainConfig, GuestType
from domains.control.domain_operations import Restore
from domains.control.operations import Created
from domains.control.records import Malformed, decode
from domains.dom0.toolstack.builder.rings import Built
from domains.dom0.toolstack.domains import Record as Domain
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.lifecycle import Lifecycle
from domains.dom0.toolstack.parts import Parts
from domains.dom0.toolstack.read_file import opened
from domains.dom0.toolstack.restoring.file_source import FileSource
from domains.dom0.toolstack.restoring.hvm import HvmRestorer
from domains.dom0.toolstack.restoring.pv import PvRestorer
from domains.dom0.toolstack.stream import libxc, libxl, xl_file
from domains.dom0.toolstack.stream.ends import Source
from domains.dom0.toolstack.stream.errors import StreamError
from domains.dom0.toolstack.stream.framing import Counted, RecordReader
from domains.dom0.toolstack.stream.libxc import LIBXC, GuestKind
from domains.dom0.toolstack.stream.libxl import LIBXL, LibxlRecord
from domains.kernel.tasks import Task
from hypervisor.public.types import DomId

KINDS: Final = {GuestKind.X86_PV: GuestType.PV, GuestKind.X86_HVM: GuestType.PVH}


class Restoring:
    """One per toolstack: makes domains of files."""

    def __init__(self, parts: Parts, lifecycle: Lifecycle) -> None:
        self._parts = parts
        self._lifecycle = lifecycle

    def restore(self, wanted: Restore) -> Task[Created]:
        """ToolstackError, and then nothing is there that was not there before."""
        with opened(self._parts.kernel, wanted.path) as file:
            source = FileSource(file)
            yield from source.open()
            record = yield from self.restore_from(source, wanted.config, paused=wanted.paused)
        return Created(record.domid, record.config.name, record.warnings)

    def restore_from(self, source: Source, config: DomainConfig | None, *, paused: bool) -> Task[Domain]:
        """Make a domain of the whole of a stream; `config` in place of the description that it has. ToolstackError."""
        stream = Counted(source)
        described = yield from xl_file.read_header(stream)
        config = config or description(described)
        return (yield from self.make(stream, config, paused=paused))

    def make(
        self, stream: Counted, config: DomainConfig, *, paused: bool, arrives: bool = False
    ) -> Task[Domain]:
        """The same of a stream that begins with libxl's header. `arrives`: it comes from another machine, which has it still."""
        self._check_uuid(config)
        if config.python_guest is not None:  # machine code never becomes Python (docs/trust.md)
            raise StreamError(
                f"the description of {config.name} is one of a guest in Python: none is ever saved"
            )
        yield from libxl.read_header(stream)
        records = RecordReader(stream, LIBXL)
        first = yield from records.next()
        first.need(first.type == LibxlRecord.LIBXC_CONTEXT, "libxc's stream does not come first")

        def fill(domid: DomId, config: DomainConfig) -> Task[Built]:
            self._parts.domains.records[domid].arrives = arrives
            built = yield from self._fill(stream, domid, config)
            end = yield from records.next()
            end.need(end.type == LibxlRecord.END, "it does not belong behind the domain's contents")
            return built

        record: Domain = yield from self._lifecycle.make_of(config, fill, paused)
        return record

    def _fill(self, stream: Counted, domid: DomId, config: DomainConfig) -> Task[Built]:
        kind = (yield from libxc.read_headers(stream)).kind
        if KINDS[kind] is not config.type:
            raise StreamError(
                f"libxc's domain header: a domain of type {KINDS[kind]}, and described as one of {config.type}"
            )
        parts, restorer = self._parts, PvRestorer if kind is GuestKind.X86_PV else HvmRestorer
        records = RecordReader(stream, LIBXC)
        return (yield from restorer(parts.kernel, parts.xen, domid, config, records).restore())

    def _check_uuid(self, config: DomainConfig) -> None:
        for record in self._parts.domains.records.values():
            if record.uuid == config.uuid:
                raise ToolstackError(
                    f"domain '{record.config.name}' has the uuid {config.uuid} of the one to be restored;"
                    " it must end first, or the file is restored with a description that names another"
                )

    def perform(self, wanted: Any) -> Any:
        """What the operation answers. Raises ToolstackError."""
        return self.HANDLERS[type(wanted)](self, wanted)

    HANDLERS: Final[dict[type[Any], Callable[[Any, Any], Any]]] = {Restore: restore}
    """What performs each operation."""


def description(plain: Any) -> DomainConfig:
    """The description that a file has. StreamError."""
    if plain is None:
        raise StreamError(
            "xl's header: it has no description that this toolstack has written; name one as CONFIG_FILE"
        )
    try:
        config: DomainConfig = decode(DomainConfig, plain, "the description")
    except Malformed as error:
        raise StreamError(f"xl's header: {error}") from None
    return config
