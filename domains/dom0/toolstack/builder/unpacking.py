"""Dom0's side of the process that unpacks kernels: asks it, waits for the answer in the loop, and ends the work in any case."""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from domains.dom0.toolstack.builder.image import python_image
from domains.dom0.toolstack.builder.prepared import Prepared, Refused, Run, decode
from domains.dom0.toolstack.errors import ToolstackError
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Signal, Task
from hypervisor.builder.pv_image import LayoutError
from hypervisor.builder.pv_layout import plan
from hypervisor.public.types import PAGE_SIZE, PAGES_PER_MIB
from hypervisor.wire import descriptors
from hypervisor.wire.descriptors import Note

SECONDS: Final = 120.0
"""What a kernel may take to be read and unpacked, on a busy host."""
MAX_ANSWER: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """The files of the domain `name`, of `memory` MiB; `ramdisk` is empty when there is none."""

    name: str
    kernel: str
    ramdisk: str
    memory: int
    pvh: bool = False


def prepare_python(name: str, spec: str, memory: int) -> Prepared:
    """The Python guest `name` of `memory` MiB: one page, which names its class. Raises ToolstackError."""
    image = python_image(spec)
    try:
        layout = plan(image, memory * PAGES_PER_MIB)
    except LayoutError as error:
        raise ToolstackError(f"domain {name}: {error}") from None
    page = bytes(image.segments[0].data).ljust(PAGE_SIZE, b"\0")
    return Prepared(layout, [Run(layout.kernel.pfn, 1, 0)], memoryview(page))


def prepare(kernel: Kernel, unpacker: socket.socket, request: Request) -> Task[Prepared]:
    """Have a domain's files read and unpacked. Raises ToolstackError."""
    with Unpacking(kernel, unpacker, request) as unpacking:
        answer = yield from unpacking.answer()
        try:
            return decode(answer, unpacking.pages(), request.memory * PAGES_PER_MIB, pvh=request.pvh)
        except Refused as refused:
            raise ToolstackError(str(refused)) from None
        except ValueError as error:
            raise ToolstackError(
                f"kernel {request.kernel}: the process that unpacks it broke down: {error}"
            ) from None


def ask(unpacker: socket.socket, request: Request, memfd: int) -> socket.socket:
    """Have the files unpacked into `memfd`; the answer comes over the socket. OSError: the unpacker is gone or does not read."""
    ours, theirs = socket.socketpair()
    try:
        note = [Note.UNPACK, request.name, request.kernel, request.ramdisk, request.memory, request.pvh]
        descriptors.send(unpacker, note, (memfd, theirs.fileno()))
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours


class Unpacking:
    """One kernel being unpacked. `with` ends the process that does it."""

    def __init__(self, kernel: Kernel, unpacker: socket.socket, request: Request) -> None:
        """Raises ToolstackError when there is nobody to do it."""
        self._kernel = kernel
        self._what = request.kernel
        self._pidfd = -1
        self._said = bytearray()
        self._ended = False
        self._arrived = Signal()
        unpacker.setblocking(False)
        self._memfd = os.memfd_create("kernel", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            self._socket = ask(unpacker, request, self._memfd)
        except OSError as error:
            os.close(self._memfd)
            raise ToolstackError(
                f"kernel {request.kernel}: the process that unpacks kernels: {error.strerror}"
            ) from None
        self._socket.setblocking(False)
        kernel.add_reader(self._socket.fileno(), self._read)

    def __enter__(self) -> Unpacking:
        return self

    def __exit__(self, *_error: object) -> None:
        if not self._ended:
            self._kernel.remove_reader(self._socket.fileno())
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
        self._socket.close()  # it ends by this if it has not yet said who it is
        os.close(self._memfd)

    def answer(self) -> Task[bytes]:
        """Everything it has to say. ToolstackError: it took too long, or it ended before it was done."""
        if self._kernel.repeats:
            self._wait()
        if not (yield from self._kernel.until(lambda: self._ended, self._arrived, timeout=SECONDS)):
            raise ToolstackError(f"kernel {self._what}: it takes more than {SECONDS:g} s to unpack")
        if not self._said:
            raise ToolstackError(
                f"kernel {self._what}: it could not be unpacked within the limits of time and memory"
            )
        return bytes(self._said)

    def _wait(self) -> None:
        """On a machine that repeats itself: no time of its own passes meanwhile, however long the host takes."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while not self._ended and poll.poll(SECONDS * 1000):
            self._read()

    def pages(self) -> memoryview:
        """The memfd's content, which lives as long as somebody holds it, and whose end nobody takes away any more."""
        fcntl.fcntl(self._memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        if not os.fstat(self._memfd).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(self._memfd, 0, prot=mmap.PROT_READ))

    def _read(self) -> None:
        """First comes one byte with the process's pidfd, then its answer, then the end."""
        try:
            if self._pidfd < 0:
                data, fds, _flags, _address = socket.recv_fds(self._socket, 1, 1)
                self._pidfd = fds[0] if fds else -1
                if self._pidfd >= 0:
                    return
            else:
                data = self._socket.recv(1 << 16)
                self._said += data
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data or len(self._said) > MAX_ANSWER:
            self._ended = True
            self._kernel.remove_reader(self._socket.fileno())
            self._arrived.send()
