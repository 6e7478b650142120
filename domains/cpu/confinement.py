"""What Linux still does for a domain process once its guest's machine code runs: as good as nothing.

The process has all it needs by then: its memory, its endpoint, its pair to the core, its threads. From there on a filter
(seccomp, for every thread) lets pass what computing, waiting and ending take, and answers EPERM to everything else: no file
and no socket is opened, nobody is signalled, traced or looked into, nothing is executed, forked or asked of the kernel anew. So
whoever escapes from the emulated CPU into this process holds this domain, and the way to the core that it had before.

Nor can it make the host spend more than its domain was given: no file grows, its memfd included, and beyond what the process has
when its guest starts it gets DATA_SLACK bytes of memory of its own.

Source: Linux Documentation/userspace-api/seccomp_filter.rst; numbers: arch/x86/entry/syscalls/syscall_64.tbl.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from enum import IntEnum
from pathlib import Path
from typing import Final


class Syscall(IntEnum):
    """What passes, by its number on x86-64."""

    read = 0
    write = 1
    close = 3
    fstat = 5
    poll = 7
    lseek = 8
    mmap = 9
    mprotect = 10
    munmap = 11
    brk = 12
    rt_sigaction = 13
    rt_sigprocmask = 14
    rt_sigreturn = 15
    readv = 19
    writev = 20
    sched_yield = 24
    mremap = 25
    madvise = 28
    nanosleep = 35
    setitimer = 38
    getpid = 39
    sendto = 44
    recvfrom = 45
    sendmsg = 46
    recvmsg = 47
    exit = 60
    gettimeofday = 96
    sigaltstack = 131
    gettid = 186
    futex = 202
    restart_syscall = 219
    clock_gettime = 228
    clock_getres = 229
    clock_nanosleep = 230
    exit_group = 231
    epoll_wait = 232
    epoll_ctl = 233
    ppoll = 271
    set_robust_list = 273
    epoll_pwait = 281
    getrandom = 318
    membarrier = 324
    rseq = 334


DATA_SLACK: Final = 64 << 20
"""Bytes of private memory that a confined process may add to what it has: for Python, libzmq and the engine's tables."""

SYS_SECCOMP: Final = 317
SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_FILTER_FLAG_TSYNC: Final = 1
SECCOMP_RET_ALLOW: Final = 0x7FFF_0000
SECCOMP_RET_ERRNO: Final = 0x0005_0000
EPERM: Final = 1
AUDIT_ARCH_X86_64: Final = 0xC000_003E

BPF_LD_W_ABS: Final = 0x20
BPF_JMP_JEQ_K: Final = 0x15
BPF_RET_K: Final = 0x06
_NR, _ARCH = 0, 4
"""Where struct seccomp_data has the call's number and the architecture it is of."""


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def confine(more: int = 0) -> None:
    """From now on, in all threads of this process, for good; `more` bytes of memory are left to it beyond DATA_SLACK. OSError if
    this Linux has no such filter.

    Needs no right: the process cannot gain any (PR_SET_NO_NEW_PRIVS, hypervisor/supervisor.py).
    """
    _limit(DATA_SLACK + more)
    code = _filter()
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    args = (SYS_SECCOMP, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, ctypes.byref(program))
    if libc.syscall(*args) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"the domain's process cannot be confined: {os.strerror(error)}")


def _limit(slack: int) -> None:
    """No file grows (RLIMIT_FSIZE, which a memfd's size counts for), and private memory is bounded (RLIMIT_DATA)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    data = int(status["VmData"].split()[0]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (data + slack,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _filter() -> bytes:
    """struct sock_filter[]: (code u16, jump if true u8, jump if false u8, k u32) each."""
    allowed = [int(call) for call in Syscall]
    last = len(allowed)
    return b"".join(
        [
            _step(BPF_LD_W_ABS, _ARCH),
            _step(BPF_JMP_JEQ_K, AUDIT_ARCH_X86_64, 0, last + 1),  # another ABI's numbers mean other calls
            _step(BPF_LD_W_ABS, _NR),
            *(_step(BPF_JMP_JEQ_K, nr, last - i) for i, nr in enumerate(allowed)),
            _step(BPF_RET_K, SECCOMP_RET_ERRNO | EPERM),
            _step(BPF_RET_K, SECCOMP_RET_ALLOW),
        ]
    )


def _step(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, k)
