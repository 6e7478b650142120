"""Rule S2: no domain uses up more than its share, whatever it does, and everything is given back."""

import pytest

from domains.dom0.xenstore.outgoing import EVENT_TIMEOUT
from domains.dom0.xenstore.quota import DEFAULTS, Quota
from hypervisor.public.io.xs_wire import XS_CONTROL, XS_READ, XS_WRITE
from hypervisor.public.types import DomId
from tests.domains.dom0.xenstore.client import OK, Bench, Client, decode, encode


def used(client: Client, quota: Quota) -> int:
    return client.connection.domain.usage[quota]


def test_the_limits_are_those_of_xens_c_xenstored() -> None:
    assert {quota.value: limit for quota, limit in DEFAULTS.items()} == {
        "nodes": 1000,
        "watches": 128,
        "outstanding": 20,
        "memory": 2621440,
        "transactions": 10,
        "transaction-nodes": 1024,
        "node-permissions": 5,
        "path-max": 2048,
        "node-size": 2048,
    }


def test_s2_a_domain_owns_at_most_its_quota_of_nodes(bench: Bench) -> None:
    bench.home(1)
    client = bench.domains[1]
    made = 0
    while client.mkdir(b"%d/%d" % (made % 10, made)) == OK:
        made += 1
    assert used(client, Quota.NODES) == 1000
    assert client.mkdir(b"0/more") == "ENOSPC"
    assert client.write(b"0/0", b"x") == OK
    assert client.rm(b"0") == OK
    assert client.mkdir(b"more") == OK
    assert bench.dom0.mkdir(b"/local/domain/1/forced") == OK


def test_s2_creating_many_levels_at_once_is_refused_as_a_whole(bench: Bench) -> None:
    bench.home(1)
    bench.dom0.ask(XS_CONTROL, b"quota", b"set", b"nodes", b"10")
    assert bench.domains[1].mkdir(b"a/b/c/d/e/f/g/h/i/j") == "ENOSPC"
    assert bench.domains[1].ls(b"/local/domain/1") == []
    assert bench.domains[1].mkdir(b"a/b/c/d/e/f/g/h/i") == OK


def test_s2_a_node_is_charged_to_its_owner(bench: Bench) -> None:
    bench.home(1)
    bench.dom0.chmod(b"/local/domain/1", b"n1", b"b2")
    assert bench.domains[2].mkdir(b"/local/domain/1/guest-of-2") == OK
    assert (used(bench.domains[1], Quota.NODES), used(bench.domains[2], Quota.NODES)) == (1, 1)
    bench.dom0.chmod(b"/local/domain/1/guest-of-2", b"n1")
    assert (used(bench.domains[1], Quota.NODES), used(bench.domains[2], Quota.NODES)) == (2, 0)
    bench.xenstored.release(DomId(1))
    assert used(bench.dom0, Quota.NODES) == len(bench.xenstored.store)


@pytest.mark.parametrize("excess", [0, 1])
def test_s2_a_node_stays_below_2048_bytes(bench: Bench, excess: int) -> None:
    """A header of 24 bytes and one permission of 8 count, and 2048 itself is too much, as in Xen."""
    bench.home(1)
    value = b"x" * (2047 - 24 - 8 + excess)
    assert bench.domains[1].write(b"v", value) == ("ENOSPC" if excess else OK)
    assert bench.dom0.write(b"/local/domain/1/v", value) == OK
    assert bench.domains[1].write(b"v", b"") == OK, "less is never refused"


def test_s2_names_of_children_count_as_part_of_the_node(bench: Bench) -> None:
    bench.home(1)
    made = 0
    while bench.domains[1].mkdir(b"d/%099d" % made) == OK:
        made += 1
    assert made == (2048 - 16 - 8) // 100


def test_s2_permissions_watches_transactions_and_paths_are_limited(bench: Bench) -> None:
    bench.home(1)
    client = bench.domains[1]
    five = (b"n1", b"r2", b"r3", b"r4", b"r9")
    assert client.chmod(b"/local/domain/1", *five) == OK
    assert client.chmod(b"/local/domain/1", *five, b"r0") == "ENOSPC"

    for number in range(128):
        assert client.watch(b"/w", b"%d" % number) == OK
    assert client.watch(b"/w", b"more") == "ENOSPC"
    assert client.unwatch(b"/w", b"0") == OK
    assert client.watch(b"/w", b"more") == OK

    ids = [client.begin() for _ in range(10)]
    assert client.ask(6, b"") == "ENOSPC"
    assert client.end(ids[0], b"F") == OK
    client.begin()

    assert client.read(b"/" + b"x" * 2047) == "EACCES"
    assert client.read(b"/" + b"x" * 2048) == "EINVAL"
    assert client.read(b"/local/domain/1/" + b"x" * 2048) == "ENOENT"


def test_s2_the_memory_of_a_domain_is_bounded(bench: Bench) -> None:
    bench.home(1)
    bench.dom0.ask(XS_CONTROL, b"quota", b"set", b"memory", b"20000")
    client = bench.domains[1]
    written = 0
    while (reply := client.write(b"%d" % written, b"x" * 1000)) == OK:
        written += 1
    assert reply == "ENOMEM"
    assert 15 < written < 20
    assert client.watch(b"/" + b"w" * 2000) == "ENOMEM"
    tx = client.begin()
    replies = [client.read(b"/" + b"x" * 1800 + b"%d" % number, tx=tx) for number in range(5)]
    assert "ENOMEM" in replies
    assert client.end(tx) == "ENOMEM"
    assert used(client, Quota.MEMORY) <= 20000
    assert client.rm(b"0") == OK, "one can always give back"
    assert client.write(b"0", b"x" * 900) == OK


def test_s2_what_is_counted_is_given_back(bench: Bench) -> None:
    bench.home(1)
    client = bench.domains[1]
    before = client.connection.domain.usage.snapshot()
    client.watch(b"device")
    tx = client.begin()
    client.write(b"a/b", b"x", tx=tx)
    client.end(tx)
    tx = client.begin()
    client.rm(b"a", tx=tx)
    client.end(tx, b"F")
    client.rm(b"a")
    client.unwatch(b"device")
    client.take_events()
    assert client.connection.domain.usage.snapshot() == before


def test_xsa_326_replies_that_nobody_takes_stop_the_requests(bench: Bench) -> None:
    connection = bench.domains[1].connection
    for number in range(30):
        connection.feed(encode(XS_READ, b"/tool\0", req_id=number))
    messages, _rest = decode(connection.outgoing.take())
    assert [m.req_id for m in messages] == list(range(20))
    assert bench.xenstored.run() is None
    messages, _rest = decode(connection.outgoing.take())
    assert [m.req_id for m in messages] == list(range(20, 30))


def test_s2_room_says_how_much_a_stalled_client_may_still_send(bench: Bench) -> None:
    connection = bench.domains[1].connection
    while connection.room:
        connection.feed(encode(XS_READ, b"/tool\0")[: connection.room])
    assert connection.outgoing.take()
    bench.xenstored.run()
    assert connection.room


def test_xsa_326_events_that_a_request_causes_count_until_they_are_taken(bench: Bench) -> None:
    """Domain 1 writes what domain 0 watches and does not read: domain 1 has to wait, not domain 0's queue to
    grow."""
    bench.home(1)
    bench.dom0.watch(b"/local/domain/1")
    bench.dom0.take_events()
    writer = bench.domains[1].connection
    for number in range(100):
        writer.feed(encode(XS_WRITE, b"%d\0" % number))
        writer.outgoing.take()
    assert len(bench.xenstored.store.get("/local/domain/1").names()) == 20  # type: ignore[union-attr,arg-type]
    assert len(bench.dom0.take_events()) == 20
    bench.xenstored.run()
    assert len(bench.dom0.take_events()) == 20


def test_s2_events_that_an_unprivileged_watcher_leaves_lying_are_dropped_in_time(bench: Bench) -> None:
    bench.home(1)
    bench.dom0.chmod(b"/local/domain/1", b"r1")
    sleeper = bench.domains[2]
    sleeper.watch(b"/local/domain/1")
    sleeper.take_events()
    writer = bench.domains[1].connection
    for number in range(40):
        writer.feed(encode(XS_WRITE, b"%d\0" % number))
        writer.outgoing.take()
    assert bench.xenstored.run() == pytest.approx(EVENT_TIMEOUT)
    assert used(bench.domains[1], Quota.OUTSTANDING) == 20
    bench.clock.now += EVENT_TIMEOUT
    bench.xenstored.run()
    writer.outgoing.take()
    assert writer.has_request is False
    assert len(sleeper.take_events()) == 20, "those of the second half"
    assert used(bench.domains[1], Quota.OUTSTANDING) == 0


def test_xsa_326_events_for_an_unprivileged_watcher_stop_at_its_memory_quota(bench: Bench) -> None:
    bench.dom0.ask(XS_CONTROL, b"quota", b"set", b"memory", b"5000")
    bench.dom0.mkdir(b"/a")
    bench.dom0.chmod(b"/a", b"r0")
    sleeper = bench.domains[2]
    sleeper.watch(b"/a")
    for number in range(1000):
        bench.dom0.write(b"/a/%d" % number, b"")
    assert used(sleeper, Quota.MEMORY) <= 5000
    assert sleeper.connection.dead is None
    assert sleeper.take_events()


def test_s2_a_privileged_client_that_reads_nothing_is_given_up(bench: Bench) -> None:
    sleeper = bench.xenstored.open()
    sleeper.feed(encode(4, b"/\0" + b"t" * 1000 + b"\0"))
    for number in range(2000):
        bench.dom0.write(b"/a/%d" % number, b"")
    assert sleeper.dead
    assert len(sleeper.outgoing) == 0
    assert len(bench.xenstored.watches) == 0


def test_s3_one_client_is_not_served_for_ever_while_others_wait(bench: Bench) -> None:
    greedy = bench.xenstored.open()
    greedy.feed(encode(XS_READ, b"/tool\0") * 100)
    messages, _rest = decode(greedy.outgoing.take())
    assert len(messages) == 32
    assert bench.xenstored.run() == 0.0
    assert bench.dom0.read(b"/tool") == b""
    while bench.xenstored.run() == 0.0:
        pass
    messages, _rest = decode(greedy.outgoing.take())
    assert len(messages) == 68
