"""Rule S3: all or nothing, conflicts exactly where somebody else has interfered, nobody starved."""

import pytest

from domains.dom0.xenstore.quota import Quota
from tests.domains.dom0.xenstore.client import OK, Bench

# Inside a transaction on /t: what is done in it, what someone else does meanwhile, what the commit says.
INTERLEAVINGS = [
    (("read", b"/t/a"), ("write", b"/t/a"), "EAGAIN"),
    (("read", b"/t/a"), ("write", b"/t/b"), OK),
    (("read", b"/t/a"), ("rm", b"/t/a"), "EAGAIN"),
    (("read", b"/t/a"), ("chmod", b"/t/a"), "EAGAIN"),
    (("read", b"/t/a"), ("write", b"/t/a/new"), "EAGAIN"),
    (("read", b"/t/none"), ("write", b"/t/none"), "EAGAIN"),
    (("read", b"/t/none"), ("write", b"/t/other"), "EAGAIN"),
    (("ls", b"/t"), ("write", b"/t/new"), "EAGAIN"),
    (("ls", b"/t"), ("write", b"/t/a"), OK),
    (("ls", b"/t"), ("rm", b"/t"), "EAGAIN"),
    (("write", b"/t/a"), ("write", b"/t/a"), "EAGAIN"),
    (("write", b"/t/a"), ("write", b"/t/b"), OK),
    (("write", b"/t/a"), ("read", b"/t/a"), OK),
    (("write", b"/t/new"), ("write", b"/t/other"), "EAGAIN"),
    (("write", b"/t/a/new"), ("write", b"/t/other"), OK),
    (("rm", b"/t/a"), ("write", b"/t/a"), "EAGAIN"),
    (("rm", b"/t/a"), ("write", b"/t/b"), OK),
    (("rm", b"/t"), ("write", b"/t/a"), "EAGAIN"),
    (("chmod", b"/t/a"), ("write", b"/t/a"), "EAGAIN"),
]


def act(bench: Bench, action: tuple[str, bytes], tx: int = 0) -> None:
    verb, path = action
    arguments = {"write": (b"value",), "chmod": (b"r0",)}.get(verb, ())
    getattr(bench.dom0, verb)(path, *arguments, tx=tx)


@pytest.mark.parametrize(("mine", "theirs", "verdict"), INTERLEAVINGS)
def test_s3_a_commit_fails_exactly_if_a_node_it_looked_at_was_changed(
    bench: Bench, mine: tuple[str, bytes], theirs: tuple[str, bytes], verdict: bytes | str
) -> None:
    for path in (b"/t/a", b"/t/b"):
        bench.dom0.write(path, b"before")
    tx = bench.dom0.begin()
    act(bench, mine, tx)
    act(bench, theirs)
    assert bench.dom0.end(tx) == verdict


def test_s3_a_transaction_sees_its_own_changes_and_nobody_elses(bench: Bench) -> None:
    bench.dom0.write(b"/a", b"old")
    tx = bench.dom0.begin()
    assert bench.dom0.read(b"/a", tx=tx) == b"old"
    assert bench.dom0.write(b"/a", b"new", tx=tx) == OK
    assert bench.dom0.write(b"/b/c", b"", tx=tx) == OK
    assert bench.dom0.read(b"/a", tx=tx) == b"new"
    assert bench.dom0.ls(b"/b", tx=tx) == [b"c"]
    assert bench.dom0.read(b"/a") == b"old"
    assert bench.dom0.ls(b"/b") == "ENOENT"
    assert bench.dom0.end(tx) == OK
    assert bench.dom0.read(b"/a") == b"new"


def test_s3_an_abandoned_transaction_changes_nothing_and_tells_nobody(bench: Bench) -> None:
    bench.dom0.watch(b"/")
    bench.dom0.take_events()
    tx = bench.dom0.begin()
    bench.dom0.write(b"/a", b"x", tx=tx)
    bench.dom0.rm(b"/tool", tx=tx)
    assert bench.dom0.end(tx, b"F") == OK
    assert bench.dom0.ls(b"/") == [b"tool"]
    assert bench.dom0.take_events() == []


def test_s3_a_conflicting_commit_changes_nothing_and_tells_nobody(bench: Bench) -> None:
    bench.dom0.write(b"/a", b"x")
    tx = bench.dom0.begin()
    bench.dom0.read(b"/a", tx=tx)
    bench.dom0.write(b"/b", b"x", tx=tx)
    bench.dom0.write(b"/a", b"y")
    bench.dom0.watch(b"/")
    bench.dom0.take_events()
    assert bench.dom0.end(tx) == "EAGAIN"
    assert bench.dom0.read(b"/b") == "ENOENT"
    assert bench.dom0.take_events() == []


def test_events_of_a_transaction_come_once_per_node_at_the_commit(bench: Bench) -> None:
    bench.dom0.write(b"/gone/below", b"x")
    for path in (b"/", b"/gone/below"):
        bench.dom0.watch(path, path)
    bench.dom0.take_events()
    tx = bench.dom0.begin()
    bench.dom0.write(b"/a", b"1", tx=tx)
    bench.dom0.write(b"/a", b"2", tx=tx)
    bench.dom0.write(b"/fleeting", b"", tx=tx)
    bench.dom0.rm(b"/fleeting", tx=tx)
    bench.dom0.rm(b"/gone", tx=tx)
    assert bench.dom0.take_events() == []
    assert bench.dom0.end(tx) == OK
    assert bench.dom0.take_events() == [(b"/a", b"/"), (b"/gone/below", b"/gone/below"), (b"/gone", b"/")]


def test_remove_and_create_again_in_one_transaction(bench: Bench) -> None:
    bench.dom0.write(b"/a/old", b"x")
    tx = bench.dom0.begin()
    assert bench.dom0.rm(b"/a", tx=tx) == OK
    assert bench.dom0.read(b"/a/old", tx=tx) == "ENOENT"
    assert bench.dom0.write(b"/a/new", b"y", tx=tx) == OK
    assert bench.dom0.end(tx) == OK
    assert bench.dom0.ls(b"/a") == [b"new"]


def test_s3_xsa_421_a_commit_beyond_the_quota_is_refused_as_a_whole(bench: Bench) -> None:
    """Two transactions, each within the quota, together beyond it."""
    bench.home(1)
    bench.home(1)
    bench.xenstored.limits[Quota.NODES] = 6
    client = bench.domains[1]
    assert client.mkdir(b"d1") == OK
    assert client.mkdir(b"d2") == OK
    first, second = client.begin(), client.begin()
    for name in (b"/a", b"/b"):
        assert client.mkdir(b"d1" + name, tx=first) == OK
        assert client.mkdir(b"d2" + name, tx=second) == OK
    assert client.end(first) == OK
    assert client.end(second) == "ENOSPC"
    assert client.ls(b"d2") == []
    assert client.connection.domain.usage[Quota.NODES] == 5


def test_s2_a_transaction_that_touches_too_many_nodes_can_only_end(bench: Bench) -> None:
    home = bench.home(1)
    bench.xenstored.limits[Quota.TRANSACTION_NODES] = 8
    client = bench.domains[1]
    for number in range(8):
        client.write(b"n%d" % number, b"")
    tx = client.begin()
    replies = [client.read(home + b"/n%d" % number, tx=tx) for number in range(8)]
    assert replies == [b""] * 8
    assert client.read(home, tx=tx) == "ENOSPC"
    assert client.end(tx) == "ENOMEM"
    assert client.connection.domain.usage[Quota.TRANSACTIONS] == 0


def test_xsa_206_endless_writes_are_slowed_down_while_others_have_transactions(bench: Bench) -> None:
    """A guest that writes without end must leave gaps in which another one's commit can succeed."""
    bench.home(1)
    hostile, victim = bench.domains[1], bench.domains[2]
    victim.begin()
    writes = 0
    while hostile.connection.wait() == 0.0:
        assert hostile.write(b"x", b"") == OK
        writes += 1
        assert writes < 2000
    wait = bench.domains[1].connection.wait()
    assert wait is not None
    assert 0 < wait < 0.1
    assert victim.read(b"/tool") == "EACCES", "the others are served"
    bench.clock.now += wait
    assert hostile.connection.wait() == 0.0
    assert hostile.write(b"x", b"") == OK
    assert hostile.connection.wait() != 0.0


def test_writes_are_free_while_nobody_has_a_transaction(bench: Bench) -> None:
    bench.home(1)
    for _ in range(2000):
        assert bench.domains[1].write(b"x", b"") == OK


def test_transaction_ids_wrap_around_without_meeting_zero_or_one_in_use(bench: Bench) -> None:
    first = bench.dom0.begin()
    bench.dom0.connection._next_transaction = 0xFFFFFFFF
    assert bench.dom0.begin() == 0xFFFFFFFF
    assert bench.dom0.begin() == first + 1


@pytest.mark.parametrize("refused", ["too large", "one node too many"])
def test_s3_a_transaction_in_which_a_quota_refused_something_commits_nothing(
    bench: Bench, refused: str
) -> None:
    """What came before and after the refusal is not done either, for the client meant all of it."""
    bench.home(1)
    client = bench.domains[1]
    tx = client.begin()
    assert client.write(b"before", b"1", tx) == OK
    if refused == "too large":
        assert client.write(b"large", b"x" * 3000, tx) == "ENOSPC"
    else:
        bench.xenstored.limits[Quota.NODES] = 2
        assert client.write(b"more", b"", tx) == "ENOSPC"
        bench.xenstored.limits[Quota.NODES] = 1000
    assert client.write(b"after", b"2", tx) == OK
    assert client.end(tx) == "ENOMEM"
    assert client.ls(b"/local/domain/1") == []
    assert client.write(b"after", b"2") == OK, "the next request is another matter"


def test_a_refusal_for_lack_of_rights_does_not_break_a_transaction(bench: Bench) -> None:
    """The negative control: what is refused before anything would be changed leaves the transaction whole."""
    bench.home(1)
    client = bench.domains[1]
    tx = client.begin()
    assert client.write(b"/local/domain/2/x", b"", tx) in ("EACCES", "ENOENT")
    assert client.rm(b"nothing/below", tx) == "ENOENT"
    assert client.write(b"good", b"1", tx) == OK
    assert client.end(tx) == OK
    assert client.read(b"good") == b"1"


def test_a_parent_seen_before_its_child_came_or_went_ends_in_a_conflict_and_nothing_else(
    bench: Bench,
) -> None:
    """The transaction remembers the parent, and meets the child only when somebody else has made or removed it."""
    guest = bench.domains[1]
    assert bench.dom0.write(b"/t/old", b"") == OK
    assert bench.dom0.chmod(b"/t", b"b1") == OK
    created, removed = guest.begin(), guest.begin()
    for tx in (created, removed):
        assert guest.ls(b"/t", tx=tx) == [b"old"]
    assert bench.dom0.write(b"/t/new", b"") == OK
    assert bench.dom0.chmod(b"/t/new", b"b1") == OK
    assert bench.dom0.rm(b"/t/old") == OK
    assert guest.rm(b"/t/new", tx=created) == OK
    assert guest.write(b"/t/old", b"again", tx=removed) == OK
    assert guest.rm(b"/t/old", tx=removed) == OK
    assert guest.end(created) == "EAGAIN"
    assert guest.end(removed) == "EAGAIN"
    bench.check()
    assert bench.dom0.ls(b"/t") == [b"new"]
