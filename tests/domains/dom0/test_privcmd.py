"""Dom0 performs hypercalls for its user's programs, and no such program holds it, reaches its memory, or ends it.

Control: with `hypercall_under` loading Dom0's own table, the test of pointers finds Xen's answer in Dom0's memory; without
`destroyed`, the domain that a client destroys is made again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from domains.dom0.privcmd.calls import LONGEST
from domains.dom0.privcmd.messages import DomainRequest, Header, Kind, Unmapping
from domains.dom0.privcmd.server import CLIENTS_MAX
from domains.dom0.privcmd.window import WINDOW_END, WINDOW_START
from hypervisor.public.domctl import (
    XEN_DOMCTL_INTERFACE_VERSION,
    Domctl,
    xen_domctl,
    xen_domctl_createdomain,
    xen_domctl_hypercall_init,
    xen_domctl_u,
)
from hypervisor.public.errno import Errno
from hypervisor.public.event_channel import evtchn_alloc_unbound, evtchn_reset
from hypervisor.public.grant_table import gnttab_setup_table
from hypervisor.public.hvm.hvm_op import xen_hvm_param
from hypervisor.public.memory import xen_memory_reservation
from hypervisor.public.sched import sched_remote_shutdown
from hypervisor.public.sysctl import (
    XEN_SYSCTL_INTERFACE_VERSION,
    Sysctl,
    xen_sysctl,
    xen_sysctl_readconsole,
    xen_sysctl_u,
)
from hypervisor.public.xen import (
    DOMID_INVALID,
    DOMID_SELF,
    MMUEXT_PIN_L1_TABLE,
    Hypercall,
    mmu_update,
    mmuext_op,
    multicall_entry,
)
from tests.domains.dom0.privcmd_client import PrivcmdClient, body_of
from tests.domains.dom0.store_socket import StoreSocket
from tests.machines import Machine, wait_until

START = int(WINDOW_START)


@pytest.fixture(scope="module")
def shared() -> Iterator[Machine]:
    """One machine for all tests; each leaves it as it was."""
    machine = Machine(memory=128)
    try:
        yield machine
        assert machine.census_is_clean()
    finally:
        machine.stop()


@pytest.fixture
def client(shared: Machine) -> Iterator[PrivcmdClient]:
    """A client of it; afterwards the machine must still serve another one."""
    with PrivcmdClient(shared.folder) as client:
        yield client
    with PrivcmdClient(shared.folder) as another:
        assert version(another) == 4 << 16 | 17


def version(client: PrivcmdClient) -> int:
    """Xen's version, as xen_version tells."""
    return client.hypercall(Hypercall.xen_version)[0]


def domctl(client: PrivcmdClient, cmd: int, domid: int, u: xen_domctl_u | None = None) -> int:
    """The result of a domctl."""
    op = xen_domctl(
        cmd=cmd, interface_version=XEN_DOMCTL_INTERFACE_VERSION, domain=domid, u=u or xen_domctl_u()
    )
    return client.hypercall(Hypercall.domctl, START, at=START, data=op.pack())[0]


def readconsole(buffer: int, count: int) -> bytes:
    """A sysctl that has Xen write its log to an address."""
    asked = xen_sysctl_readconsole(buffer=buffer, count=count)
    return xen_sysctl(
        cmd=Sysctl.XEN_SYSCTL_readconsole,
        interface_version=XEN_SYSCTL_INTERFACE_VERSION,
        u=xen_sysctl_u(readconsole=asked),
    ).pack()


def test_a_buffer_in_the_window_is_read_and_written(client: PrivcmdClient) -> None:
    op, at = readconsole(START + 4096, 64), START + 4096
    result, data = client.request(
        Kind.HYPERCALL, body_of(Hypercall.sysctl, START, pieces=[(START, op), (at, bytes(64))])
    )
    assert result == 0
    assert data[len(op) :].startswith(b"Xenoscope: machine")


@pytest.mark.parametrize("buffer", [0xFFFF_FFFF_8000_0000, 0xFFFF_C900_0000_0000, WINDOW_END, 0, 1 << 47])
def test_a_pointer_reaches_nothing_of_dom0_outside_the_window(client: PrivcmdClient, buffer: int) -> None:
    """The first address is where Dom0's kernel lies, the second where it maps the frames of others."""
    result, _ = client.hypercall(Hypercall.sysctl, START, at=START, data=readconsole(buffer, 64))
    assert result == -Errno.EFAULT


@pytest.mark.parametrize(
    "nr",
    [
        Hypercall.sched_op,
        Hypercall.set_gdt,
        Hypercall.update_va_mapping,
        Hypercall.set_trap_table,
        1 << 40,
    ],
)
def test_what_is_no_toolstacks_is_not_passed_on(client: PrivcmdClient, nr: int) -> None:
    assert client.hypercall(nr, 2)[0] == -Errno.ENOSYS


def test_dom0s_memory_events_and_grants_are_its_kernels(shared: Machine, client: PrivcmdClient) -> None:
    """Each call would be performed if it were about another domain; one that is not there, so Xen says ESRCH or does nothing."""
    at = START
    for domid, expected in ((0, -Errno.EPERM), (DOMID_SELF, -Errno.EPERM)):
        memory = (
            xen_memory_reservation(extent_start=START + 64, nr_extents=1, domid=domid).pack().ljust(72, b"\0")
        )
        calls = [
            (Hypercall.memory_op, (1, at), memory),
            (Hypercall.memory_op, (6, at), memory),
            (Hypercall.event_channel_op, (6, at), evtchn_alloc_unbound(dom=domid).pack()),
            (Hypercall.event_channel_op, (10, at), evtchn_reset(dom=domid).pack()),
            (Hypercall.grant_table_op, (2, at, 1), gnttab_setup_table(dom=domid).pack()),
            (Hypercall.mmuext_op, (at, 1, 0, domid), mmuext_op(cmd=MMUEXT_PIN_L1_TABLE).pack()),
            (Hypercall.mmu_update, (at, 1, 0, domid), mmu_update(ptr=1).pack()),
            (Hypercall.sched_op, (4, at), sched_remote_shutdown(domain_id=domid).pack()),
            (Hypercall.hvm_op, (0, at), xen_hvm_param(domid=domid).pack()),
        ]
        for nr, args, data in calls:
            assert client.hypercall(nr, *args, at=at, data=data)[0] == expected, nr
    for nr, args in (
        (Hypercall.memory_op, (11, at)),
        (Hypercall.mmuext_op, (at, 1, 0, 5)),
        (Hypercall.mmu_update, (at, 1, 0, 5)),
        (Hypercall.event_channel_op, (3, at)),
        (Hypercall.grant_table_op, (0, at, 1)),
        (Hypercall.sched_op, (1, at)),
    ):
        assert client.hypercall(nr, *args, at=at, data=mmuext_op(cmd=8).pack())[0] == -Errno.ENOSYS
    huge = client.hypercall(Hypercall.mmuext_op, at, 1 << 31, 0, 5, at=at, data=bytes(64))
    assert huge[0] == -Errno.E2BIG
    free = shared.info()["free_frames"]
    memory = xen_memory_reservation(extent_start=START + 64, nr_extents=1 << 31, domid=77).pack()
    assert client.hypercall(Hypercall.memory_op, 6, at, at=at, data=memory)[0] == 0  # extents done
    assert shared.info()["free_frames"] == free


def test_entries_of_a_multicall_are_checked_one_by_one(client: PrivcmdClient) -> None:
    calls = [(Hypercall.xen_version, 0), (Hypercall.sched_op, 2), (Hypercall.multicall, 0)]
    data = b"".join(multicall_entry(op=nr, args=(arg, 0, 0, 0, 0, 0)).pack() for nr, arg in calls)
    result, after = client.hypercall(Hypercall.multicall, START, len(calls), at=START, data=data)
    assert result == 0
    results = [multicall_entry.unpack(after, i * multicall_entry.sizeof).result for i in range(len(calls))]
    assert results == [4 << 16 | 17, (1 << 64) - Errno.ENOSYS, (1 << 64) - Errno.ENOSYS]
    assert client.hypercall(Hypercall.multicall, START, 1 << 30, at=START, data=data)[0] == -Errno.E2BIG
    assert client.hypercall(Hypercall.multicall, START + 8192, 1, at=START, data=data)[0] == -Errno.EFAULT


def test_dom0s_own_frames_are_not_written(client: PrivcmdClient) -> None:
    page = xen_domctl_u(hypercall_init=xen_domctl_hypercall_init(gmfn=1))
    assert domctl(client, Domctl.XEN_DOMCTL_hypercall_init, 0, page) == -Errno.EPERM
    assert domctl(client, Domctl.XEN_DOMCTL_destroydomain, 0) == -Errno.EINVAL


def test_nonsense_gets_an_errno(client: PrivcmdClient) -> None:
    assert client.request(77, b"x" * 100)[0] == -Errno.ENOSYS
    assert client.request(Kind.HYPERCALL, b"short")[0] == -Errno.EINVAL
    op = readconsole(START, 8)
    for address in (0, WINDOW_END - 8, (1 << 64) - 8, START - 8):
        assert client.hypercall(Hypercall.sysctl, START, at=address, data=op)[0] == -Errno.EFAULT
    lies = bytearray(body_of(Hypercall.sysctl, START, pieces=[(START, op)]))
    lies[48:52] = (1 << 31).to_bytes(4, "little")
    assert client.request(Kind.HYPERCALL, bytes(lies))[0] == -Errno.E2BIG
    lies[48:52] = (2).to_bytes(4, "little")
    assert client.request(Kind.HYPERCALL, bytes(lies))[0] == -Errno.EINVAL
    assert client.hypercall(Hypercall.domctl, START + 8 * 4096)[0] == -Errno.EFAULT
    client.socket.sendall(Header(size=LONGEST + 1, kind=Kind.HYPERCALL).pack())
    assert client.reply() == (-Errno.E2BIG, b"")
    assert client.receive(1) == b""  # cut off: what follows cannot be told from a request


def test_a_console_is_followed_by_many_who_do_not_read(
    shared: Machine, client: PrivcmdClient, tmp_path: Path
) -> None:
    body = "class Probe(Guest):\n    def main(self) -> None:\n"
    body += "        print('x' * 600_000)\n        print('end of it')\n        self.kernel.sleep(1000)\n"
    assert shared.guest(tmp_path, body).returncode == 0
    domid = shared.domain("guest")["domid"]
    about = DomainRequest(domid=domid).pack()
    for refused in (0, domid + 1, 0x7FF0, 1 << 31):
        assert client.request(Kind.CONSOLE, DomainRequest(domid=refused).pack())[0] < 0
        assert refused == 0 or client.request(Kind.CONFIGURATION, DomainRequest(domid=refused).pack())[0] < 0
    assert client.request(Kind.CONSOLE, b"")[0] == -Errno.EINVAL
    assert client.request(Kind.CONFIGURATION, about)[1].endswith(b"}\0")
    deaf = [PrivcmdClient(shared.folder) for _ in range(3)]
    for one in deaf:
        assert one.request(Kind.CONSOLE, about) == (0, b"")
    with PrivcmdClient(shared.folder) as follower:
        assert follower.request(Kind.CONSOLE, about) == (0, b"")
        assert len(follower.receive(600_000)) == 600_000
        assert follower.receive(len("\r\nend of it")) == b"\r\nend of it"
        shared.destroy("guest")
        while follower.receive(1):
            pass
    for one in deaf:
        one.socket.close()


def test_frames_of_a_domain_are_mapped_and_given_back(
    shared: Machine, client: PrivcmdClient, tmp_path: Path
) -> None:
    """Its console's page has what it said; its page table is not to be had writable; nothing is left when the client goes."""
    body = "class Probe(Guest):\n    def main(self) -> None:\n        print('look into my ring')\n"
    body += "        print(f'L4 {self.kernel.memory.tables.l4}')\n        self.kernel.sleep(1000)\n"
    assert shared.guest(tmp_path, body).returncode == 0
    domid = shared.domain("guest")["domid"]
    store = {row["path"]: row["value"] for row in shared.json("xenstore-ls", f"/local/domain/{domid}")}
    ring = int(store[f"/local/domain/{domid}/console/ring-ref"])
    said = DomainRequest(domid=domid).pack()
    with PrivcmdClient(shared.folder) as follower:
        assert follower.request(Kind.CONSOLE, said) == (0, b"")
        table = int(re.split(rb"L4 (\d+)\r", follower.receive(len("look into my ring\r\nL4 12345\r\n")))[1])
    number, pages = client.map(domid, [ring, ring])
    assert number > 0
    assert all(b"look into my ring" in page[:] for page in pages)
    assert client.map(domid, [ring, table])[0] == -Errno.EBUSY
    assert client.map(domid, [table], writable=False)[0] > 0
    for refused, frames in (
        (0, [1]),
        (domid, []),
        (domid, [ring] * 513),
        (domid, [1 << 40]),
        (domid + 1, [1]),
    ):
        assert client.map(refused, frames)[0] < 0
    assert client.request(Kind.UNMAP, Unmapping(number=number).pack()) == (0, b"")
    assert client.request(Kind.UNMAP, Unmapping(number=number).pack()) == (-Errno.EINVAL, b"")
    assert client.request(Kind.MAP, b"short")[0] == -Errno.EINVAL
    shared.destroy("guest")
    client.socket.close()
    wait_until(shared.census_is_clean, 30, "a clean census")


def test_clients_that_stop_in_the_middle_hold_nobody(shared: Machine, client: PrivcmdClient) -> None:
    """As many as there may be, each with a request of which the end is missing; then one that never reads."""
    stuck = [PrivcmdClient(shared.folder) for _ in range(CLIENTS_MAX - 2)]
    for one in stuck:
        one.socket.sendall(Header(size=LONGEST, kind=Kind.HYPERCALL).pack() + bytes(1000))
    assert version(client) == 4 << 16 | 17
    for one in stuck:
        one.socket.close()
    deaf = PrivcmdClient(shared.folder)
    large = body_of(Hypercall.xen_version, pieces=[(START, bytes(64 * 4096))])
    deaf.socket.sendall(Header(size=len(large), kind=Kind.HYPERCALL).pack() + large)  # the reply does not fit
    deaf.socket.setblocking(False)
    for _ in range(100):
        assert version(client) == 4 << 16 | 17
        with suppress(BlockingIOError):
            deaf.socket.send(large)
    deaf.socket.close()


def test_a_domain_that_a_client_destroys_is_gone_and_not_made_again(shared: Machine, tmp_path: Path) -> None:
    body = "class Probe(Guest):\n    def main(self) -> None:\n        self.kernel.sleep(1000)\n"
    made = shared.guest(tmp_path, body, extra='on_crash = "restart"\nvif = [""]')
    assert made.returncode == 0, made.stderr
    domid = shared.domain("guest")["domid"]
    with PrivcmdClient(shared.folder) as client:
        assert domctl(client, Domctl.XEN_DOMCTL_pausedomain, domid) == 0
        assert "p" in shared.domain("guest")["state"]
        assert domctl(client, Domctl.XEN_DOMCTL_destroydomain, domid) == 0
    wait_until(shared.census_is_clean, 30, "a clean census")
    assert f"/local/domain/{domid}" not in shared.xenctl("xenstore-ls", "-f").stdout
    assert "guest" not in shared.domains()


def test_a_domain_that_xl_was_killed_over_is_known_by_its_name_and_can_be_taken_away(
    shared: Machine, client: PrivcmdClient, tmp_path: Path
) -> None:
    """It is in Xen and in the store, and was never introduced: `list` showed it, and no command found it by that name."""
    asked = xen_domctl_createdomain(
        handle=b"half-made-by-xl!",
        max_vcpus=1,
        max_evtchn_port=63,
        max_grant_frames=4,
        max_maptrack_frames=4,
        grant_opts=1,
    )
    op = xen_domctl(
        cmd=Domctl.XEN_DOMCTL_createdomain,
        interface_version=XEN_DOMCTL_INTERFACE_VERSION,
        domain=DOMID_INVALID,
        u=xen_domctl_u(createdomain=asked),
    )
    result, said = client.hypercall(Hypercall.domctl, START, at=START, data=op.pack())
    assert result == 0
    domid = xen_domctl.unpack(said).domain
    with StoreSocket(shared.xenstored_path) as store:
        store.write(f"/local/domain/{domid}/name".encode(), b"half")
    again = shared.guest(tmp_path, "class Probe(Guest):\n    pass\n", name="half")
    assert "exists already" in again.stderr
    done = shared.xenctl("destroy", "half")
    assert done.returncode == 0, done.stderr
    wait_until(shared.census_is_clean, 30, "a clean census")
    assert f"/local/domain/{domid}" not in shared.xenctl("xenstore-ls", "-f").stdout
