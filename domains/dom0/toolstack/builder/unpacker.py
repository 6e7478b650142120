"""The process that reads, unpacks and checks a kernel and a ramdisk, so that Dom0's loop does not.

    python -m domains.dom0.toolstack.builder.unpacker <memfd> <domain> <kernel> <ramdisk or ""> <memory in MiB>

Files are data from a stranger: a small one may unpack to gigabytes, or take minutes. The process limits its own memory and
time before it opens any, and ends with Dom0. It writes the domain's pages into the memfd and one msgpack map to standard
output (prepared.py).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Final

from domains.dom0.toolstack.builder.image import MAX_IMAGE, load_kernel, load_ramdisk
from domains.dom0.toolstack.builder.prepared import Run, encode, encode_refusal, hypercall_pfn
from domains.dom0.toolstack.errors import ToolstackError
from hypervisor.builder.pv_contents import Content, kernel_contents, whole_pages
from hypervisor.builder.pv_image import LayoutError, PvImage
from hypervisor.builder.pv_layout import Plan, plan
from hypervisor.public.types import PAGE_SIZE, PAGES_PER_MIB

PR_SET_PDEATHSIG: Final = 1
CPU_SECONDS: Final = 60
"""Of one CPU; a Linux kernel takes less than one."""
MEMORY_BASE: Final = 512 << 20
"""Bytes of address space for Python and its libraries."""


def main(arguments: Sequence[str]) -> None:
    """Do it; whatever is wrong with the files is said in one line."""
    memfd, name, kernel, ramdisk, memory = int(arguments[0]), *arguments[1:4], int(arguments[4])
    limit(memory << 20, [kernel, ramdisk])
    try:
        answer = prepared(memfd, kernel, ramdisk or None, memory)
    except ToolstackError as error:
        answer = encode_refusal(str(error))
    except LayoutError as error:
        answer = encode_refusal(f"domain {name}: {error}")
    except MemoryError:
        answer = encode_refusal(f"domain {name}: its kernel and ramdisk take too much memory to unpack")
    write_all(1, answer)


def limit(memory: int, files: Sequence[str]) -> None:
    """Bound this process: the files and three copies of the domain's memory (read, unpacked, laid out) fit."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    sizes = sum(min(os.path.getsize(path), MAX_IMAGE) for path in files if os.path.isfile(path))
    space = MEMORY_BASE + sizes + 3 * memory
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def prepared(memfd: int, kernel: str, ramdisk: str | None, memory: int) -> bytes:
    """The answer; the pages are in the memfd. Raises ToolstackError, LayoutError, MemoryError."""
    image = load_kernel(kernel, memory)
    initrd = load_ramdisk(ramdisk)
    layout = plan(image, memory * PAGES_PER_MIB, len(initrd))
    check_hypercall_page(image, layout)
    parts = kernel_contents(layout)
    if layout.ramdisk is not None:
        parts.append(Content(layout.ramdisk.pfn, whole_pages(initrd, layout.ramdisk.pages)))
    runs, offset = [], 0
    for part in parts:
        write_all(memfd, part.data.data)
        runs.append(Run(part.pfn, part.data.nbytes // PAGE_SIZE, offset))
        offset += part.data.nbytes
    return encode(image, len(initrd), runs)


def check_hypercall_page(image: PvImage, layout: Plan) -> None:
    """Refuse a kernel that wants its hypercall page where it has no page."""
    page = hypercall_pfn(image)
    if page is not None and not layout.kernel.pfn <= page < layout.kernel.end:
        raise LayoutError(
            f"the kernel wants its hypercall page at {image.hypercall_page:#x}, which is not a page of its segments"
        )


def write_all(fd: int, data: bytes | memoryview) -> None:
    """All of it, in as many pieces as the descriptor takes."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(fd, rest) :]


if __name__ == "__main__":
    main(sys.argv[1:])
