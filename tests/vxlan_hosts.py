"""Hosts for tests of VXLAN: machines with loopback addresses of their own, and a network namespace with Linux' own device.

    namespace "near" ── veth ── namespace "far"
      our machine                 vxlan device of Linux
      10.77.0.1, fd77::1          10.77.0.2, fd77::2

Root makes the namespaces as they are; everybody else within a user namespace of the test's, where the host allows that.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import pytest

from tests.machines import Machine

NEAR4, FAR4, NEAR6, FAR6 = "10.77.0.1", "10.77.0.2", "fd77::1", "fd77::2"
TOOLS: Final = ("ip", "nsenter", "unshare")


class Hosts(NamedTuple):
    """How to run a command in each namespace."""

    near: list[str]
    far: list[str]

    def on_far(self, *command: str) -> str:
        """Run a command there that must succeed; what it prints."""
        return must([*self.far, *command])


def must(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@contextmanager
def holder(command: list[str]) -> Iterator[int]:
    """A process that holds the namespaces that `command` makes; its pid."""
    with subprocess.Popen([*command, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(b"\n")
            process.stdin.flush()
            if process.stdout.read(1) != b"\n":
                pytest.skip("the host allows no network namespace")
            yield process.pid
        except BrokenPipeError:
            pytest.skip("the host allows no network namespace")
        finally:
            process.kill()


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Two namespaces on one wire. Skips the test where there can be none."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"{' '.join(missing)} of iproute2 and util-linux is not installed")
    root = os.geteuid() == 0
    unshare = ["unshare", "--net"] if root else ["unshare", "--user", "--map-root-user", "--net"]
    kinds = ["--net"] if root else ["--user", "--preserve-credentials", "--net"]
    with holder(unshare) as near:
        enter = ["nsenter", "-t", str(near), *kinds]
        with holder([*enter, "unshare", "--net"]) as far:
            hosts = Hosts(enter, ["nsenter", "-t", str(far), *kinds])
            ip = [*enter, "ip"]
            must([*ip, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", str(far)])
            for side, four, six in ((hosts.near, NEAR4, NEAR6), (hosts.far, FAR4, FAR6)):
                must([*side, "ip", "address", "add", f"{four}/24", "dev", "wire"])
                must([*side, "ip", "address", "add", f"{six}/64", "dev", "wire", "nodad"])
                for device in ("lo", "wire"):
                    must([*side, "ip", "link", "set", device, "up"])
            yield hosts


def linux_vxlan(hosts: Hosts, vni: int, near: str, address: str) -> None:
    """A vxlan device of Linux' own on the far host, towards `near`. Skips the test where the kernel has none."""
    dev = ["ip", "link", "add", f"vx{vni}", "type", "vxlan", "id", str(vni)]
    done = subprocess.run(
        [*hosts.far, *dev, "remote", near, "dstport", "4789", "dev", "wire"],
        capture_output=True,
        text=True,
        check=False,
    )
    if "not supported" in done.stderr or "Unknown device type" in done.stderr:
        pytest.skip("the host's kernel has no vxlan device")
    assert done.returncode == 0, done.stderr
    hosts.on_far("ip", "address", "add", f"{address}/24", "dev", f"vx{vni}")
    hosts.on_far("ip", "link", "set", f"vx{vni}", "up")


def loopback_address() -> str:
    """One that no other test has."""
    return f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"


def attach(machine: Machine, bridge: str, vni: int, *words: str) -> None:
    """Give a bridge a VXLAN port."""
    done = machine.xenctl("vxlan-attach", bridge, str(vni), *words)
    assert done.returncode == 0, done.stderr


def port_of(machine: Machine, bridge: str = "xenbr0") -> dict[str, Any]:
    """What `xenctl vxlan-list` tells of a bridge's port."""
    ports: dict[str, Any] = {port["bridge"]: port for port in machine.json("vxlan-list")}
    found: dict[str, Any] = ports[bridge]
    return found
