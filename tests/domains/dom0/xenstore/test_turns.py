"""Dom0's loop and its store: whatever the store waits for, every other handler is served at once.

The clock is the test's own and stands still: a handler that ran has waited for nothing but other handlers.
"""

from collections.abc import Callable

from domains.dom0.store_turns import StoreTurns
from domains.kernel.loop import Loop, Timer
from hypervisor.public.types import DomId
from tests.domains.dom0.xenstore.client import OK, Bench, Client

WATCHES = 60
"""More events of one write than a ring of 1,024 bytes holds."""


class Clocked:
    """A kernel's loop at a time that the test says."""

    def __init__(self, bench: Bench) -> None:
        self.loop = Loop()
        self._bench = bench

    def now(self) -> int:
        return int(self._bench.clock() * 1e9)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.loop.call_soon(callback)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return self.loop.call_at(self.now() + int(seconds * 1e9), callback)


class House:
    """Dom0's loop over the bench's store. Domain 1 has a ring that it does not empty."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.kernel = Clocked(bench)
        self.turns = StoreTurns(self.kernel, bench.xenstored)

    def settle(self, most: int = 1000) -> int:
        """Run what is ready, the store's turn after each, until nothing is; how many handlers that were."""
        for handlers in range(most):
            self.turns.turn()
            if not self.kernel.loop.run_one():
                return handlers
        raise AssertionError("the loop does not come to rest")

    def pass_time(self, seconds: float) -> None:
        self.bench.clock.now += seconds
        self.kernel.loop.fire(self.kernel.now())


def with_full_ring(bench: Bench) -> None:
    """Domain 1 watches, and does not take the events that a write causes."""
    for watch in range(WATCHES):
        assert bench.domains[1].watch(b"/data", b"%060d" % watch) == OK
    bench.dom0.collect()
    ring_of(bench)
    assert bench.dom0.write(b"/data", b"x") == OK


def ring_of(bench: Bench) -> None:
    """Give domain 1's connection the transport of a ring, as introducing it does."""
    connection = bench.xenstored.domains.get(DomId(1)).connection
    assert connection is not None
    bench.toolstack.connect(connection, 1, 1)


def test_a_full_ring_leaves_the_loop_at_rest_and_others_served(bench: Bench) -> None:
    assert bench.dom0.write(b"/data", b"") == OK
    assert bench.dom0.chmod(b"/data", b"r0") == OK
    house = House(bench)
    with_full_ring(bench)
    answers: list[bytes | str] = []
    for _ in range(100):
        house.kernel.call_soon(lambda: answers.append(bench.dom0.read(b"/data")))
        house.kernel.call_soon(lambda: answers.append(bench.domains[2].read(b"/data")))
        bench.clock.now += 0.0001  # what is left until the events expire changes at every look
    assert house.settle() == 200
    assert answers == [b"x"] * 200


def test_events_that_nobody_takes_are_dropped_in_time_while_nothing_else_happens(bench: Bench) -> None:
    assert bench.dom0.write(b"/data", b"") == OK
    assert bench.dom0.chmod(b"/data", b"r0") == OK
    house = House(bench)
    with_full_ring(bench)
    connection = bench.xenstored.domains.get(DomId(1)).connection
    assert connection is not None
    house.settle()
    before = len(connection.outgoing)
    assert before > 0
    house.pass_time(19.5)
    house.settle()
    assert len(connection.outgoing) == before
    for _ in range(3):  # a turn may be planned a little early; then another one is
        deadline = house.kernel.loop.next_deadline()
        if deadline is None:
            break
        house.pass_time(max(deadline - house.kernel.now(), 0) / 1e9)
        house.settle()
    assert len(connection.outgoing) < before
    assert house.kernel.loop.next_deadline() is None


def test_a_client_with_endless_requests_shares_the_loop(bench: Bench) -> None:
    house = House(bench)
    busy = Client(bench.xenstored.open())
    ended: list[bool] = []

    def ask() -> None:
        busy.connection.feed(b"")
        busy.collect()
        if not ended:
            busy.connection.feed(request * 40)
            house.kernel.call_soon(ask)

    request = b"".join([b"\2\0\0\0", b"\1\0\0\0", b"\0\0\0\0", b"\2\0\0\0", b"/\0"])
    house.kernel.call_soon(ask)
    for _ in range(20):
        house.turns.turn()
        house.kernel.loop.run_one()
    house.kernel.call_soon(lambda: ended.append(True))
    house.settle(20)
    assert ended
