"""A confined process computes and ends, and can do nothing to anybody (docs/trust.md).

Each attempt is made by a process like a domain's (not dumpable, no new privileges), first as it is, which is the control: it must
succeed there, or it would show nothing; then confined, in its first thread and in one that was there before.
"""

import errno
import json
import subprocess
import sys
from pathlib import Path

from tests.machines import REPOSITORY

ATTEMPTS = {
    "open a file": "libc.open(b'/etc/passwd', 0)",
    "make a file": "libc.open(b'made', 0o102, 0o600)",
    "open a socket": "libc.socket(1, 1, 0)",
    "make a pair of sockets": "libc.socketpair(1, 1, 0, (ctypes.c_int * 2)())",
    "signal a neighbour": "libc.kill(victim, 0)",
    "open a neighbour": "libc.syscall(434, victim, 0)",
    "trace a neighbour": "libc.ptrace(0x4206, victim, None, None)",
    "read a neighbour": "libc.process_vm_readv(victim, None, 0, None, 0, 0)",
    "own a descriptor's signals": "libc.fcntl(0, 8, os.getpid())",
    "make memory to share": "libc.memfd_create(b'x', 0)",
    "fork": "fork()",
    "execute": "libc.execve(b'/nonexistent', None, None) if confined else 0",
    "limit itself": "libc.prctl(15, b'other', 0, 0, 0)",
    "a namespace of its own": "libc.unshare(0)",
    "the other ABI's calls": "libc.syscall(0x40000000 + 39) if confined else 0",
}

PROCESS = """
import ctypes, json, os, sys, threading
from domains.cpu.confinement import confine
confined, victim = sys.argv[1] == "confined", int(sys.argv[2])
attempts = json.loads(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(4, 0, 0, 0, 0), libc.prctl(38, 1, 0, 0, 0)

def fork():
    pid = libc.fork()
    if pid == 0:
        os._exit(0)
    if pid > 0:
        os.waitpid(pid, 0)
    return pid

def attempt():
    found = {}
    for what, code in compiled.items():
        ctypes.set_errno(0)
        found[what] = 0 if eval(code) >= 0 else ctypes.get_errno()
    return found

def in_another_thread():
    go.wait()
    results.append(attempt())

compiled = {what: compile(code, what, "eval") for what, code in attempts.items()}
results, go = [], threading.Event()
thread = threading.Thread(target=in_another_thread)
thread.start()
if confined:
    confine()
results.append(attempt())
go.set()
thread.join()
print(json.dumps(results))
"""


def attempted(how: str, tmp_path: object) -> list[dict[str, int]]:
    """The errno of every attempt, 0 where it succeeded, in two threads."""
    victim = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROCESS, how, str(victim.pid), json.dumps(ATTEMPTS)],
            cwd=str(tmp_path),
            env={"PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    finally:
        victim.kill()
        victim.communicate()
    found: list[dict[str, int]] = json.loads(done.stdout)
    return found


def test_a_confined_process_is_refused_everything(tmp_path: Path) -> None:
    for found in attempted("confined", tmp_path):
        assert found == dict.fromkeys(ATTEMPTS, 1)


def test_negative_control_the_attempts_succeed_without_the_filter(tmp_path: Path) -> None:
    for found in attempted("as it is", tmp_path):
        succeeded = {what for what, errno in found.items() if errno == 0}
        assert set(ATTEMPTS) - succeeded <= {"trace a neighbour"}  # a host's policy may refuse that by itself


SPENDING = """
import ctypes, fcntl, json, os, sys
from domains.cpu.confinement import confine
from hypervisor.machine.memory import create_growing_memfd, grow
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.prctl(38, 1, 0, 0, 0)
memfd = create_growing_memfd("memory")
grow(memfd, 4)
if sys.argv[1] == "confined":
    confine()

def error(result):
    return 0 if result not in (-1, 2**64 - 1) else ctypes.get_errno()

found = {"map what there is": error(libc.mmap(None, 4 * 4096, 3, 1, memfd, 0))}
os.lseek(memfd, 4 * 4096, 0)
found["make the memfd grow"] = error(libc.write(memfd, b"x" * 4096, 4096))
found["a little memory"] = error(libc.mmap(None, 1 << 20, 3, 0x22, -1, 0))
found["a gigabyte"] = error(libc.mmap(None, 1 << 30, 3, 0x4022, -1, 0))
print(json.dumps(found))
"""


def spent(how: str) -> dict[str, int]:
    """The errno of each attempt to make the host spend memory, 0 where it succeeded."""
    environment = {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", SPENDING, how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_a_confined_process_cannot_make_the_host_spend_more_than_its_domain_has() -> None:
    """Negative control: without the limits every attempt succeeds."""
    possible = {"map what there is": 0, "a little memory": 0}
    refused = {"make the memfd grow": errno.EFBIG, "a gigabyte": errno.ENOMEM}
    assert spent("confined") == possible | refused
    assert spent("as it is") == possible | dict.fromkeys(refused, 0)
