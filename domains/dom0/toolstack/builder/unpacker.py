"""The process that reads, unpacks and checks kernels and ramdisks, so that Dom0's loop does not.

    supervisor ──fork──► xeno-unpacker ──fork──► one process a kernel, which ends with its answer
                              ▲                     │ pidfd, then one msgpack map (prepared.py); pages in a memfd
    Dom0 ───── UNPACK ────────┘                     ▼
      ▲──────────────────────────────────────── Dom0

Files are data from a stranger: a small one may unpack to gigabytes, or take minutes. Each is left to a process of its own, which
limits its memory and time before it opens any file, sees no domain's memory, and ends when Dom0 wants no answer any more. The
process that forks them was forked warm, so that a kernel costs no start of Python.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
from collections.abc import Sequence
from typing import Final, NoReturn

from domains.control.description import DISK_PREFIX, PYTHON_PREFIX
from domains.dom0.toolstack.builder.disk_boot import boot_files
from domains.dom0.toolstack.builder.image import MAX_IMAGE, kernel_of, load_kernel, load_ramdisk, python_image
from domains.dom0.toolstack.builder.prepared import Run, encode, encode_refusal, hypercall_pfn, plan_of
from domains.dom0.toolstack.errors import ToolstackError
from hypervisor.builder.hvm_layout import HvmPlan
from hypervisor.builder.pv_contents import Content, kernel_contents, whole_pages
from hypervisor.builder.pv_image import LayoutError, PvImage
from hypervisor.builder.pv_layout import Plan
from hypervisor.public.types import PAGE_SIZE, PAGES_PER_MIB
from hypervisor.wire import descriptors

PR_SET_PDEATHSIG: Final = 1
CPU_SECONDS: Final = 60
"""Of one CPU; a Linux kernel takes less than one."""
WORKING_MEMORY: Final = 256 << 20
"""Bytes of address space that the libraries may take beside what the process begins with."""


def serve(requests: socket.socket) -> None:
    """The body of xeno-unpacker: a process for each request, until Dom0's end of `requests` is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: the kernel forgets them at once
    while (received := descriptors.receive(requests)) is not None:
        _note, *request = received.note
        if os.fork() == 0:
            requests.close()
            unpack_one(received.fds[0], socket.socket(fileno=received.fds[1]), *request)
        received.close()


def unpack_one(
    memfd: int, answer: socket.socket, name: str, kernel: str, ramdisk: str, memory: int, pvh: bool
) -> NoReturn:
    """Unpack one kernel, in a process made for it; whatever is wrong with the files is said in one line."""
    status = 1
    try:
        socket.send_fds(answer, [b"\0"], [os.pidfd_open(os.getpid())])
        limit(memory << 20, [kernel, ramdisk])
        answer.sendall(answer_for(memfd, name, kernel, ramdisk, memory, pvh=pvh))
        status = 0
    except OSError:  # Dom0 has closed its end
        status = 2
    finally:
        os._exit(status)


def answer_for(memfd: int, name: str, kernel: str, ramdisk: str, memory: int, *, pvh: bool = False) -> bytes:
    """What there is to say of the files."""
    try:
        return prepared(memfd, kernel, ramdisk or None, memory, pvh=pvh)
    except ToolstackError as error:
        return encode_refusal(str(error))
    except LayoutError as error:
        return encode_refusal(f"domain {name}: {error}")
    except MemoryError:
        return encode_refusal(f"domain {name}: its kernel and ramdisk take too much memory to unpack")


def limit(memory: int, files: Sequence[str]) -> None:
    """Bound this process: the files and three copies of the domain's memory (read, unpacked, laid out) fit."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    sizes = sum(min(os.path.getsize(path), MAX_IMAGE) for path in files if os.path.isfile(path))
    if files[0].startswith(DISK_PREFIX):
        sizes += memory  # which its kernel and RAM disk must fit into
    with open("/proc/self/statm") as statm:
        begins_with = int(statm.read().split()[0]) * PAGE_SIZE
    space = begins_with + WORKING_MEMORY + sizes + 3 * memory
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def prepared(memfd: int, kernel: str, ramdisk: str | None, memory: int, *, pvh: bool = False) -> bytes:
    """The answer; the pages are in the memfd. Raises ToolstackError, LayoutError, MemoryError."""
    cmdline = None
    if kernel.startswith(DISK_PREFIX):
        found = boot_files(kernel.removeprefix(DISK_PREFIX))
        image = kernel_of(found.kernel, found.kernel_path, memory, pvh=pvh)
        initrd, cmdline = found.ramdisk, found.cmdline
    else:
        python = kernel.removeprefix(PYTHON_PREFIX)
        image = load_kernel(kernel, memory, pvh=pvh) if python == kernel else python_image(python)
        initrd = load_ramdisk(ramdisk)
    layout = plan_of(image, memory * PAGES_PER_MIB, len(initrd), pvh=pvh)
    check_hypercall_page(image, layout)
    parts = kernel_contents(layout)
    if layout.ramdisk is not None:
        parts.append(Content(layout.ramdisk.pfn, whole_pages(initrd, layout.ramdisk.pages)))
    runs, offset = [], 0
    for part in parts:
        write_all(memfd, part.data.data)
        runs.append(Run(part.pfn, part.data.nbytes // PAGE_SIZE, offset))
        offset += part.data.nbytes
    return encode(image, len(initrd), runs, cmdline)


def check_hypercall_page(image: PvImage, layout: Plan | HvmPlan) -> None:
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
