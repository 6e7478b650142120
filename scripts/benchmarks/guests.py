"""The guests that are measured. Each obeys commands on its console: a line of JSON, [command, argument …].

    ["null_calls", 500]   →   0.000123        the seconds of one, or whatever the command says

Loaded by path in a domain process: it imports nothing of its own package.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from itertools import cycle
from statistics import median
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domains.kernel.guest import Guest
from domains.kernel.kernel import Kernel
from domains.kernel.page_tables import L1_SPAN, READ_WRITE
from drivers.block.front import BlockFront
from drivers.block.protocol import SECTOR_SIZE
from drivers.net.ip.interface import Interface
from drivers.net.ip.ipv4 import address_of
from drivers.net.ip.tcp.connection import Connection
from hypervisor.machine.paging import TABLE_ENTRIES
from hypervisor.public.grant_table import GNTCOPY_source_gref, gnttab_copy
from hypervisor.public.io.blkif import BLKIF_RSP_OKAY
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, DomId, Port, VAddr
from hypervisor.public.version import XENVER_version
from hypervisor.public.xen import DOMID_SELF, mmu_update

MIB: Final = 1 << 20
DEPTHS: Final = 8
"""A stream lasts so many times its depth, so that its beginning and its end count little."""
WARM_UP: Final = 10
"""Calls made before those that are timed."""
LOST: Final = 1.0
"""Seconds that a ping counts that was not answered."""
NAP: Final = 0.007
"""Seconds; no part of any slice's length."""
SILENCE: Final = 0.5
"""Seconds until datagrams that have not come are lost."""

Rows = npt.NDArray[np.void]


def timed(work: Callable[[], object], calls: int) -> float:
    """Seconds of one call, when whoever asked for it has gone to sleep again."""
    for _ in range(WARM_UP):
        work()
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls


class Obedient(Guest):
    """Does what its console says, until it is destroyed; idle otherwise."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.commands: dict[str, Callable[..., Any]] = {}

    def main(self) -> None:
        """Obeys commands until the domain is destroyed."""
        print("ready")
        while True:
            command, *arguments = json.loads(self.kernel.console.readline())
            print(json.dumps(self.commands[command](*arguments)))


class Naps(Obedient):
    """Sleeps a little, again and again, and knows how late it woke."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.commands |= {"naps": self.naps}

    def naps(self, count: int) -> float:
        """Seconds that half of the naps were no later than."""
        late = []
        for _ in range(count):
            due = time.perf_counter() + NAP
            self.kernel.sleep(NAP)
            late.append(time.perf_counter() - due)
        return median(late)


class Hypercalls(Obedient):
    """Hypercalls that cost little, and page-table updates alone and in batches."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.commands |= {"null_calls": self.null_calls, "single": self.single, "batch": self.batch}

    def null_calls(self, calls: int) -> float:
        """Seconds of one xen_version."""
        version = self.kernel.hypercalls.hypercall_xen_version
        return timed(lambda: version(XENVER_version), calls)

    def single(self, calls: int) -> float:
        """Seconds of one mmu_update with one request."""
        one, other = self.requests()
        return self.update(cycle([one[:1], other[:1]]), calls)

    def batch(self, calls: int) -> float:
        """Seconds of one mmu_update that fills a whole L1 table."""
        return self.update(cycle(self.requests()), calls)

    def update(self, batches: cycle[Rows], calls: int) -> float:
        """Seconds of one mmu_update of a batch, over `calls`."""
        mmu = self.kernel.hypercalls.hypercall_mmu_update
        mmu(next(batches))
        return timed(lambda: mmu(next(batches)), calls)

    def requests(self) -> tuple[Rows, Rows]:
        """Two ways to fill one L1 table: each entry names another frame in the other one, so that every update
        takes a reference and a type and drops both of the frame before.
        """
        if not hasattr(self, "_requests"):
            memory = self.kernel.memory
            va = VAddr(-(-memory.area.alloc(2 * TABLE_ENTRIES) // L1_SPAN) * L1_SPAN)
            l1 = memory.tables.ensure_l1(va)
            frames = np.array([memory.alloc_page().mfn for _ in range(TABLE_ENTRIES)], np.uint64)
            rows = np.zeros(TABLE_ENTRIES, mmu_update.dtype)
            rows["ptr"] = (l1 << PAGE_SHIFT) + np.arange(TABLE_ENTRIES) * 8
            other = rows.copy()
            rows["val"] = frames << np.uint64(PAGE_SHIFT) | np.uint64(READ_WRITE)
            other["val"] = rows["val"][::-1]
            self._requests = rows, other
        return self._requests


class Events(Obedient):
    """One of two domains that send each other events."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.answered = False
        self.commands |= {"listen": self.listen, "connect": self.connect, "ping": self.ping}

    def listen(self, domid: int) -> int:
        """A port that answers every event with one; its number."""
        events = self.kernel.events
        port = events.alloc_unbound(DomId(domid))
        events.bind(port, lambda: events.notify(port))
        return port

    def connect(self, domid: int, port: int) -> bool:
        """Connects to the port of another such guest, and waits for its first event."""
        events = self.kernel.events
        self.port = events.bind_interdomain(DomId(domid), Port(port))
        events.bind(self.port, self.got_answer)
        self.kernel.wait(lambda: self.answered, 5)
        return True

    def got_answer(self) -> None:
        """The other's event has come."""
        self.answered = True

    def ping(self, calls: int) -> float:
        """Seconds from an event sent to its answer handled."""
        return timed(self.one_ping, calls)

    def one_ping(self) -> None:
        """Sends an event and waits for the answer."""
        self.answered = False
        self.kernel.events.notify(self.port)
        self.kernel.wait(lambda: self.answered)


class GrantCopies(Obedient):
    """Grants pages to another domain, or copies from them."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.commands |= {"grant": self.grant, "take": self.take, "copy": self.copy}

    def grant(self, domid: int, pages: int) -> list[int]:
        """References of fresh pages that `domid` may read."""
        memory, grants = self.kernel.memory, self.kernel.grants
        return [
            grants.grant_access(DomId(domid), memory.alloc_page().mfn, readonly=True) for _ in range(pages)
        ]

    def take(self, domid: int, refs: list[int]) -> bool:
        """Make ready to copy these pages of `domid`."""
        rows = np.zeros(len(refs), gnttab_copy.dtype)
        rows["source"]["domid"], rows["dest"]["domid"] = domid, DOMID_SELF
        rows["source"]["u"]["ref"] = refs
        rows["dest"]["u"]["gmfn"] = [self.kernel.memory.alloc_page().mfn for _ in refs]
        rows["len"], rows["flags"] = PAGE_SIZE, int(GNTCOPY_source_gref)
        self.rows = rows
        return True

    def copy(self, calls: int) -> float:
        """Seconds to copy all of them once."""
        return timed(self.copy_once, calls)

    def copy_once(self) -> None:
        """One hypercall that copies everything; SystemError if a copy is refused."""
        if any(self.kernel.grants.copy_rows(self.rows)):
            raise SystemError("a copy was refused")


class Disk(Obedient):
    """Reads its disk."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.commands |= {
            "sequential": self.sequential,
            "streamed": self.streamed,
            "scattered": self.scattered,
            "flushed": self.flushed,
        }

    def main(self) -> None:
        """Connects the disk, then obeys."""
        device = self.kernel.xenbus.directory("device/vbd")[0]
        self.disk = BlockFront(self.kernel, f"device/vbd/{device}")
        self.disk.connect()
        self.next = 0
        super().main()

    def sequential(self, calls: int) -> float:
        """Seconds of one read of 1 MiB, each behind the one before."""
        return timed(self.read_on, calls)

    def read_on(self) -> None:
        """Reads the next MiB."""
        self.disk.read(self.ahead(), MIB // SECTOR_SIZE)

    def ahead(self) -> int:
        """The sector behind the last megabyte asked for."""
        at, count = self.next, MIB // SECTOR_SIZE
        self.next = (at + count) % self.disk.sectors
        return at

    def streamed(self, calls: int, depth: int) -> float:
        """Seconds of one read of 1 MiB while `depth` of them are on their way, each behind the one before."""
        return timed(lambda: self.stream(depth * DEPTHS, depth), -(-calls // (depth * DEPTHS))) / (
            depth * DEPTHS
        )

    def stream(self, total: int, depth: int) -> None:
        """Read `total` megabytes; each one that comes in makes room for another."""
        submitted = done = 0

        def submit() -> None:
            nonlocal submitted
            submitted += 1
            self.disk.submit_read(self.ahead(), MIB // SECTOR_SIZE, came)

        def came(status: int, data: bytes) -> None:
            nonlocal done
            if status != BLKIF_RSP_OKAY or len(data) != MIB:
                raise SystemError(f"a read ended with status {status}")
            done += 1
            if submitted < total:
                submit()

        for _ in range(min(depth, total)):
            submit()
        self.kernel.wait(lambda: done == total)

    def scattered(self, calls: int) -> float:
        """Seconds of one read of 4 KiB somewhere."""
        count = PAGE_SIZE // SECTOR_SIZE
        places = self.disk.sectors // count
        return timed(lambda: self.disk.read(random.randrange(places) * count, count), calls)

    def flushed(self, calls: int) -> float:
        """Seconds of one write of 64 KiB that is on the host's disk."""

        def write_and_flush() -> None:
            self.disk.write(0, random.randbytes(MIB // 16))
            self.disk.flush()

        return timed(write_and_flush, calls)


class Net(Obedient):
    """A host on a network: asks and answers, pours and swallows."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.commands |= {
            "ping": self.ping,
            "sink": self.sink,
            "pour": self.pour,
            "catch": self.catch,
            "throw": self.throw,
            "caught": self.caught,
        }

    def main(self) -> None:
        """Brings the interface up, then obeys."""
        self.net = Interface(self.kernel)
        super().main()

    def ping(self, address: str, calls: int) -> float:
        """Median of the seconds until an echo request is answered."""
        times = [self.net.ping(address) for _ in range(WARM_UP + calls)][WARM_UP:]
        return median(seconds if seconds is not None else LOST for seconds in times)

    def sink(self, port: int) -> bool:
        """Swallow what comes over TCP; the sender is told when its end was reached."""
        self.net.listen(port, swallow)
        return True

    def pour(self, address: str, port: int, mib: int) -> float:
        """Seconds of one MiB over TCP, of `mib`."""
        start = time.perf_counter()
        with self.net.connect(address, port) as stream:
            for _ in range(mib):
                stream.write(bytes(MIB))
            stream.finish()
            stream.read(1)
        return (time.perf_counter() - start) / mib

    def catch(self, port: int) -> bool:
        """Count the datagrams that come by UDP."""
        self.times: list[float] = []
        self.net.stack.udp.bind(port, lambda *_: self.times.append(time.perf_counter()))
        return True

    def throw(self, address: str, port: int, size: int, count: int) -> bool:
        """Send datagrams by UDP, as fast as the interface takes them."""
        nic, udp, destination = self.net.nic, self.net.stack.udp, address_of(address)
        self.net.ping(address)  # now its MAC address is known
        for _ in range(count):
            if not nic.room:
                self.kernel.wait(lambda: nic.room > 0)
            udp.send_to(port, destination, port, bytes(size))
        return True

    def caught(self, count: int) -> list[float]:
        """(datagrams that came of `count`, seconds between the first and the last of them)."""
        self.kernel.wait(lambda: len(self.times) >= count, SILENCE)
        times, self.times[:] = list(self.times), []
        return [len(times), times[-1] - times[0] if times else 0]


def swallow(connection: Connection) -> None:
    """Read what comes over this connection, and keep nothing."""
    Swallower(connection)


class Swallower:
    """One TCP connection whose data is not kept."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        connection.changed = self.look

    def look(self) -> None:
        """Reads what has come; answers one byte at the end."""
        self.connection.read()
        if self.connection.at_end:
            self.connection.changed = lambda: None
            self.connection.write(b"!")
            self.connection.close()
