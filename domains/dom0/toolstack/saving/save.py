"""xl save: a domain is suspended, written into a file, and then destroyed, or let go on.

    asked ─► suspended ─► written ─► the file takes its place ─► destroyed        (-c: resumed; -p: paused, and resumed)
        │          │ whatever fails: the file that was there is there, and the domain goes on

Source: Xen tools/xl/xl_saverestore.c, tools/libs/light/libxl_dom_save.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from domains.control.description import DomainConfig
from domains.control.domain_operations import Save, Saved
from domains.control.records import encode
from domains.dom0.toolstack.domains import Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.for_xl import libxl_configuration
from domains.dom0.toolstack.lifecycle import Lifecycle
from domains.dom0.toolstack.parts import Parts
from domains.dom0.toolstack.saving.file_sink import FileSink
from domains.dom0.toolstack.saving.hvm import HvmSaver
from domains.dom0.toolstack.saving.pv import PvSaver
from domains.dom0.toolstack.stream import libxl, xl_file
from domains.dom0.toolstack.stream.ends import Sink
from domains.dom0.toolstack.stream.framing import RecordWriter
from domains.dom0.toolstack.stream.libxl import LibxlRecord
from domains.dom0.toolstack.written_file import opened
from domains.dom0.toolstack.xenctrl import DomainInfo
from domains.kernel.tasks import Task
from drivers.block.overlay import FORMAT as OVERLAY
from hypervisor.public.errno import XenError
from hypervisor.public.sched import SHUTDOWN_suspend

Saver = PvSaver | HvmSaver
"""Both write a domain in rounds if need be: `begin`, any number of `look` and `pages`, and `finish` once it stands still."""


class Saving:
    """One per toolstack: saves domains into files."""

    def __init__(self, parts: Parts, lifecycle: Lifecycle) -> None:
        self._parts = parts
        self._lifecycle = lifecycle

    def save(self, wanted: Save) -> Task[Saved]:
        """ToolstackError, and then the domain goes on, and no file is there that was not there before."""
        record, info = self.savable(wanted.domain)
        config = wanted.config or record.config.replaced(uuid=record.uuid)
        with being_saved(record), opened(self._parts.kernel, wanted.path) as file:
            yield from file.do(file.open)
            sink = FileSink(file)
            if record.shutdown != SHUTDOWN_suspend:
                yield from self._parts.suspending.suspend(record, wanted.timeout)
            try:
                pages = yield from self._write(info, config, sink)
                yield from sink.finish()
            except BaseException:
                self._parts.suspending.resume_if_there(record)
                raise
            yield from self._afterwards(record, wanted)
        return Saved(pages, sink.size)

    def savable(self, domain: str, *, stays_here: bool = False) -> tuple[Record, DomainInfo]:
        """A domain that can be saved: one that runs, or has suspended by itself. `stays_here`: what is saved is for this machine
        alone. ToolstackError: it cannot, and why.
        """
        info = self._parts.domains.guest(domain)
        record = self._parts.domains.records.get(info.domid)
        if record is None:
            raise ToolstackError(
                f"domain '{domain}' was not made by this toolstack, which cannot make it again"
            )
        if record.config.python_guest is not None:
            raise ToolstackError(
                f"domain '{domain}' is a guest in Python: what its interpreter holds is not in its memory, and cannot be saved"
            )
        overlay = next((disk for disk in record.config.disks if disk.format == OVERLAY), None)
        if overlay is not None and not stays_here:
            raise ToolstackError(
                f"domain '{domain}' is a fork, and what it has written to {overlay.vdev} ends with it, or with this machine:"
                " only 'xenctl snapshot' can keep it"
            )
        if record.saving:
            raise ToolstackError(f"domain '{domain}' is being saved already")
        if info.shutdown not in (None, SHUTDOWN_suspend) or record.shutdown != info.shutdown or info.dying:
            raise ToolstackError(f"domain '{domain}' has shut down, and cannot suspend")
        if info.paused:
            raise ToolstackError(
                f"domain '{domain}' is paused, and cannot suspend; 'xenctl unpause' it first"
            )
        return record, info

    def _write(self, info: DomainInfo, config: DomainConfig, sink: Sink) -> Task[int]:
        """The whole stream of a domain that is suspended; how many pages it has."""
        xen = self._parts.xen
        try:
            xen.pausedomain(info.domid)
            try:
                return (yield from write_stream(self._parts, info, config, sink))
            finally:
                with suppress(XenError):  # it is gone
                    xen.unpausedomain(info.domid)
        except XenError as error:
            raise ToolstackError(
                f"domain {info.domid} could not be saved, for it ended meanwhile: {error}"
            ) from None

    def _afterwards(self, record: Record, wanted: Save) -> Task[None]:
        if not (wanted.checkpoint or wanted.paused):
            yield from self._lifecycle.destroy(record.domid, "saved")
            return
        if record.destroying:
            return
        if wanted.paused:
            self._parts.xen.pausedomain(record.domid)
        self._parts.suspending.resume(record)

    def perform(self, wanted: Any) -> Any:
        """What the operation answers. Raises ToolstackError."""
        return self.HANDLERS[type(wanted)](self, wanted)

    HANDLERS: Final[dict[type[Any], Callable[[Any, Any], Any]]] = {Save: save}
    """What performs each operation."""


@contextmanager
def being_saved(record: Record) -> Iterator[None]:
    """Nobody else saves it meanwhile."""
    record.saving = True
    try:
        yield
    finally:
        record.saving = False


def saver_of(parts: Parts, info: DomainInfo, writer: RecordWriter) -> Saver:
    """What writes this domain."""
    return (HvmSaver if info.translated else PvSaver)(parts.kernel, parts.xen, info, writer)


def write_stream(parts: Parts, info: DomainInfo, config: DomainConfig, sink: Sink) -> Task[int]:
    """A file's whole content, of a domain that stands still; how many pages it has. XenError: it ended meanwhile."""
    writer = RecordWriter(sink)
    yield from writer.raw(xl_file.header(libxl_configuration(config, str(config.uuid)), encode(config)))
    return (yield from write_contents(parts, info, writer))


def write_contents(parts: Parts, info: DomainInfo, writer: RecordWriter) -> Task[int]:
    """The same without its description: what begins with libxl's header."""
    yield from writer.raw(libxl.header())
    yield from writer.write(LibxlRecord.LIBXC_CONTEXT)
    saver = saver_of(parts, info, writer)
    yield from saver.begin()
    yield from saver.pages(saver.memory.ordinary)
    yield from saver.pages(saver.memory.tables)
    yield from saver.finish()
    yield from writer.write(LibxlRecord.END)
    return saver.sent
