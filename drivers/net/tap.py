"""TAP devices: one end is an interface in a network of the host's, the other a descriptor; each read or write is a frame.

    Taps.open([("xenbr0", "10.0.0.254/24")])    in this process's own network, if it may administer it
                                                (CAP_NET_ADMIN); otherwise in a new network and user namespace, held
                                                by a child process, which the same user may enter:
                                                nsenter -t PID --user --net

Nothing is persistent: an interface goes with its last descriptor, a namespace with its last process, and the child
ends when its standard input does. An interface that is there already (`ip tuntap add … user …`) is used as it is.
This file is also that child's program, so it imports nothing of the project.

Source: Linux Documentation/networking/tuntap.rst, netdevice(7), user_namespaces(7).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Final

DEVICE: Final = "/dev/net/tun"
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8913, 0x8914, 0x8916, 0x891C
IFF_UP: Final = 0x1
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_NAME: Final = 15
PROCESS: Final = "xeno-uplink"
ANSWER_SECONDS: Final = 20
Wanted = tuple[str, str]
"""An interface's name, and its IPv4 address with prefix, or nothing."""


class TapError(Exception):
    """There can be no such device; the reason is one line."""


@dataclass(frozen=True)
class Taps:
    """Open devices, in the order in which they were wanted. `pid`: of the process in whose namespaces they are, None for
    this process's own.
    """

    fds: list[int]
    child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process that holds the network namespace; None without one."""
        return None if self.child is None else self.child.pid

    @classmethod
    def open(cls, wanted: Sequence[Wanted]) -> Taps:
        """An interface for each (name, IPv4 address with prefix or nothing), all up. Raises TapError."""
        try:
            return cls(open_all(wanted))
        except PermissionError as error:
            if error.filename == DEVICE:
                raise TapError(reason(error)) from None
            return open_elsewhere(wanted)
        except OSError as error:
            raise TapError(reason(error)) from None

    def close(self) -> None:
        """The interfaces are gone, and their namespace, unless somebody else holds them."""
        for fd in self.fds:
            os.close(fd)
        if self.child is not None:
            self.child.communicate()


def open_all(wanted: Sequence[Wanted]) -> list[int]:
    """All, or none. Raises OSError as `open_tap`."""
    fds: list[int] = []
    try:
        for name, address in wanted:
            fds.append(open_tap(name, address))
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    return fds


def open_tap(name: str, address: str) -> int:
    """A descriptor of a TAP device in this process's network. Raises OSError, which names the file or the interface; a
    PermissionError about the interface says that the right to administer the network is missing.
    """
    tap = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            if address:
                interface = IPv4Interface(address)
                set_address(control, SIOCSIFADDR, name, interface.ip.packed)
                set_address(control, SIOCSIFNETMASK, name, interface.netmask.packed)
            bring_up(control, name)
    except OSError as error:
        os.close(tap)
        raise OSError(error.errno, error.strerror, name) from None
    return tap


def set_address(control: socket.socket, request: int, name: str, packed: bytes) -> None:
    """Sets an address of an interface by ioctl. OSError."""
    fcntl.ioctl(control, request, struct.pack("16sHH4s8x", name.encode(), socket.AF_INET, 0, packed))


def bring_up(control: socket.socket, name: str) -> None:
    """Unless it is up: then no right is needed."""
    flags = struct.unpack(
        "16sH22x", fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16s24x", name.encode()))
    )[1]
    if not flags & IFF_UP:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags | IFF_UP))


def reason(error: OSError) -> str:
    """Why there is no device, for whoever wanted it."""
    if error.filename == DEVICE and error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return f"there is no {DEVICE}; 'modprobe tun' brings it"
    if error.errno == errno.EBUSY:
        return f"interface {error.filename} is in use; choose another name with ifname="
    if error.errno == errno.EINVAL:
        return f"interface {error.filename} is of another kind already; choose another name with ifname="
    return f"{error.filename}: {error.strerror}"


# --- in a namespace of its own ---------------------------------------------------------------------


def open_elsewhere(wanted: Sequence[Wanted]) -> Taps:
    """Have a child make the devices in new namespaces. Raises TapError."""
    here, there = socket.socketpair()
    with here, there:
        here.settimeout(ANSWER_SECONDS)
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(there.fileno()), *(f"{n}={a}" for n, a in wanted)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[there.fileno()],
        )
        there.close()
        try:
            answer, fds, _, _ = socket.recv_fds(here, 4096, len(wanted))
        except TimeoutError:
            answer, fds = b"no answer came", []
    if not fds:
        child.kill()
        child.communicate()
        why = answer.decode() or "its process has ended"
        raise TapError(f"no right to administer the host's network, and no namespace to do it in: {why}")
    for fd in fds:
        os.set_inheritable(fd, False)
    return Taps(fds, child)


def main(answer_fd: int, wanted: Sequence[Wanted]) -> None:
    """The child: it keeps the namespaces for as long as its standard input is open."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, PROCESS.encode(), 0, 0, 0)
    with socket.socket(fileno=answer_fd) as answer:
        try:
            enter_namespaces()
            fds = open_all(wanted)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                bring_up(control, "lo")
        except OSError as error:
            answer.send(reason(error).encode())
            return
        socket.send_fds(answer, [b"\0"], fds)
    for fd in fds:
        os.close(fd)
    os.read(0, 1)


def enter_namespaces() -> None:
    """Root in a network of its own, being nobody but this user outside. Raises OSError."""
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "user namespaces")
    for file, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path("/proc/self", file).write_text(text)


if __name__ == "__main__":
    main(int(sys.argv[1]), [(name, address) for name, _, address in (w.partition("=") for w in sys.argv[2:])])
