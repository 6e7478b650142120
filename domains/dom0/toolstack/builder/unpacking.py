"""Dom0's side of the process that unpacks kernels: starts it, waits for its answer in the loop, and ends it in any case."""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from domains.dom0.toolstack.builder.image import python_image
from domains.dom0.toolstack.builder.prepared import Prepared, Refused, Run, decode
from domains.dom0.toolstack.errors import ToolstackError
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Signal, Task
from hypervisor.builder.pv_image import LayoutError
from hypervisor.builder.pv_layout import plan
from hypervisor.public.types import PAGE_SIZE, PAGES_PER_MIB

UNPACKER: Final = "domains.dom0.toolstack.builder.unpacker"
REPOSITORY: Final = Path(__file__).resolve().parents[4]
SECONDS: Final = 120.0
"""What a kernel may take to be read and unpacked, on a busy host."""
MAX_ANSWER: Final = 4 << 20


def prepare_python(name: str, spec: str, memory: int) -> Prepared:
    """The Python guest `name` of `memory` MiB: one page, which names its class. Raises ToolstackError."""
    image = python_image(spec)
    try:
        layout = plan(image, memory * PAGES_PER_MIB)
    except LayoutError as error:
        raise ToolstackError(f"domain {name}: {error}") from None
    page = bytes(image.segments[0].data).ljust(PAGE_SIZE, b"\0")
    return Prepared(layout, [Run(layout.kernel.pfn, 1, 0)], memoryview(page))


def prepare(kernel: Kernel, name: str, image: str, ramdisk: str | None, memory: int) -> Task[Prepared]:
    """Read and unpack the files of the domain `name`, of `memory` MiB. Raises ToolstackError."""
    with Unpacking(kernel, name, image, ramdisk or "", memory) as unpacking:
        answer = yield from unpacking.answer()
        try:
            return decode(answer, unpacking.pages(), memory * PAGES_PER_MIB)
        except Refused as refused:
            raise ToolstackError(str(refused)) from None
        except ValueError as error:
            raise ToolstackError(f"kernel {image}: the process that unpacks it broke down: {error}") from None


class Unpacking:
    """One process. `with` ends it."""

    def __init__(self, kernel: Kernel, name: str, image: str, ramdisk: str, memory: int) -> None:
        self._kernel = kernel
        self._what = image
        self._memfd = os.memfd_create("kernel", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", UNPACKER, str(self._memfd), name, image, ramdisk, str(memory)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(self._memfd,),
                cwd=REPOSITORY,
                env={"OPENBLAS_NUM_THREADS": "1", "PATH": os.environ.get("PATH", "")},
            )
        except BaseException:
            os.close(self._memfd)
            raise
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        self._said = bytearray()
        self._ended = False
        self._arrived = Signal()
        kernel.add_reader(self._pipe, self._read)

    def __enter__(self) -> Unpacking:
        return self

    def __exit__(self, *_error: object) -> None:
        self._kernel.remove_reader(self._pipe)
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        os.close(self._memfd)

    def answer(self) -> Task[bytes]:
        """Everything it has to say. ToolstackError: it took too long, or it ended before it was done."""
        if not (yield from self._kernel.until(lambda: self._ended, self._arrived, timeout=SECONDS)):
            raise ToolstackError(f"kernel {self._what}: it takes more than {SECONDS:g} s to unpack")
        if not self._said:
            raise ToolstackError(
                f"kernel {self._what}: it could not be unpacked within the limits of time and memory"
            )
        return bytes(self._said)

    def pages(self) -> memoryview:
        """The memfd's content, which lives as long as somebody holds it, and whose end nobody takes away any more."""
        fcntl.fcntl(self._memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        if not os.fstat(self._memfd).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(self._memfd, 0, prot=mmap.PROT_READ))

    def _read(self) -> None:
        try:
            data = os.read(self._pipe, 1 << 16)
        except BlockingIOError:
            return
        self._said += data
        if not data or len(self._said) > MAX_ANSWER:
            self._ended = True
            self._kernel.remove_reader(self._pipe)
            self._arrived.send()
