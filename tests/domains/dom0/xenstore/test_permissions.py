"""Rule S1: who sees and changes what, and what a dead domain leaves behind (XSA-115, 322, 352, 353, 417,
419)."""

import itertools
from collections.abc import Callable
from functools import partial

import pytest

from domains.dom0.xenstore.quota import Quota
from hypervisor.public.io.xs_wire import XS_SET_TARGET
from hypervisor.public.types import DomId
from tests.domains.dom0.xenstore.client import OK, Bench, Client

READS = {b"r", b"b"}
WRITES = {b"w", b"b"}


@pytest.mark.parametrize("letter", [b"n", b"r", b"w", b"b"])
@pytest.mark.parametrize("asker", ["owner", "listed", "other", "control"])
def test_s1_each_right_lets_through_what_it_names(bench: Bench, letter: bytes, asker: str) -> None:
    """The node is domain 1's; `letter` is what domain 2 (by its entry) and domain 3 (by the first entry) may
    do."""
    bench.dom0.write(b"/node", b"value")
    bench.dom0.chmod(b"/node", letter + b"1", letter + b"2")
    client = {"owner": 1, "listed": 2, "other": 3, "control": 0}[asker]
    full = asker in ("owner", "control")
    reads, writes = full or letter in READS, full or letter in WRITES
    asking = bench.domains[client]

    assert asking.read(b"/node") == (b"value" if reads else "EACCES")
    assert asking.ls(b"/node") == ([] if reads else "EACCES")
    assert asking.perms(b"/node") == (letter + b"1\0" + letter + b"2\0" if reads else "EACCES")
    assert asking.chmod(b"/node", b"n1") == (OK if full else "EACCES")
    bench.dom0.chmod(b"/node", letter + b"1", letter + b"2")
    assert asking.mkdir(b"/node/child") == (OK if writes else "EACCES")
    assert asking.write(b"/node", b"new") == (OK if writes else "EACCES")
    assert asking.rm(b"/node") == (OK if writes else "EACCES")


def test_s1_an_entry_decides_even_if_everybody_else_may_do_more(bench: Bench) -> None:
    bench.dom0.write(b"/node", b"value")
    bench.dom0.chmod(b"/node", b"b1", b"n2")
    assert bench.domains[2].read(b"/node") == "EACCES"
    assert bench.domains[3].read(b"/node") == b"value"


def test_s1_a_refusal_does_not_tell_whether_the_node_exists(bench: Bench) -> None:
    bench.dom0.write(b"/secret/there", b"")
    for path in (b"/secret/there", b"/secret/missing", b"/missing", b"/secret/missing/below"):
        assert bench.domains[1].read(path) == "EACCES"
        assert bench.domains[1].write(path, b"") == "EACCES"
        assert bench.domains[1].rm(path) == "EACCES"
        assert bench.domains[1].chmod(path, b"n1") == "EACCES"
    bench.dom0.chmod(b"/secret", b"r0")
    assert bench.domains[1].read(b"/secret/missing") == "ENOENT"
    assert bench.domains[1].read(b"/secret/there") == "EACCES"


def test_xsa_353_the_root_is_no_exception(bench: Bench) -> None:
    for attempt in (
        bench.domains[1].ls(b"/"),
        bench.domains[1].mkdir(b"/mine"),
        bench.domains[1].chmod(b"/", b"b1"),
        bench.domains[1].perms(b"/"),
        bench.domains[1].rm(b"/tool"),
    ):
        assert attempt == "EACCES"


def test_xsa_352_only_the_control_domain_changes_an_owner(bench: Bench) -> None:
    home = bench.home(1)
    assert bench.domains[1].chmod(home, b"n2", b"b1") == "EPERM"
    assert bench.domains[1].chmod(home, b"n0") == "EPERM"
    assert bench.domains[1].chmod(home, b"n1", b"r2") == OK
    assert bench.dom0.chmod(home, b"n2") == OK
    assert bench.domains[1].read(home) == "EACCES"


def test_s1_what_a_domain_creates_is_its_own_with_the_rights_of_the_parent(bench: Bench) -> None:
    bench.dom0.mkdir(b"/shared")
    bench.dom0.chmod(b"/shared", b"r1", b"b2")
    assert bench.domains[2].write(b"/shared/a/b", b"") == OK
    assert bench.dom0.perms(b"/shared/a") == b"r2\0b2\0"
    assert bench.dom0.perms(b"/shared/a/b") == b"r2\0b2\0"
    assert bench.dom0.write(b"/shared/c", b"") == OK
    assert bench.dom0.perms(b"/shared/c") == b"r1\0b2\0"


def test_a_device_model_acts_for_its_target_until_that_dies(bench: Bench) -> None:
    bench.home(1)
    bench.dom0.write(b"/for-one", b"x")
    bench.dom0.chmod(b"/for-one", b"n0", b"r1")
    model = bench.domains[2]
    assert model.read(b"/local/domain/1") == "EACCES"
    assert bench.dom0.ask(XS_SET_TARGET, b"2", b"1") == OK
    assert model.write(b"/local/domain/1/device", b"x") == OK
    assert model.read(b"/for-one") == b"x"
    bench.xenstored.release(DomId(1))
    bench.domains[1] = bench.introduced(1)
    bench.home(1)
    assert model.read(b"/local/domain/1") == "EACCES", "the next domain 1 is not the target"


def test_k5_s1_nothing_of_a_dead_domain_is_left_for_the_next_of_its_id(bench: Bench) -> None:
    home = bench.home(1)
    bench.domains[1].write(home + b"/a/b", b"x")
    bench.dom0.write(home + b"/a/not-its-own", b"x")
    bench.dom0.chmod(home + b"/a/not-its-own", b"n2")
    bench.dom0.write(b"/elsewhere", b"x")
    bench.dom0.chmod(b"/elsewhere", b"n0", b"b1", b"r2")
    bench.domains[1].watch(b"/elsewhere")
    bench.domains[1].begin()

    bench.xenstored.release(DomId(1))
    assert bench.dom0.read(home) == "ENOENT"
    assert bench.dom0.perms(b"/elsewhere") == b"n0\0r2\0"
    assert len(bench.xenstored.watches) == 0
    assert bench.xenstored.store.open_transactions == 0
    usage = bench.domains[2].connection.domain.usage
    assert (usage[Quota.NODES], usage[Quota.MEMORY]) == (0, 0)

    heir = bench.introduced(1)
    assert heir.connection.domain.usage.snapshot() == dict.fromkeys(
        heir.connection.domain.usage.snapshot(), 0
    )
    assert heir.read(b"/elsewhere") == "EACCES"


def test_k5_a_domain_that_was_never_introduced_leaves_nothing_either(bench: Bench) -> None:
    bench.home(9)
    bench.xenstored.release(DomId(9))
    assert bench.dom0.read(b"/local/domain/9") == "ENOENT"
    assert bench.xenstored.domains.find(DomId(9)) is None


def test_xsa_322_an_entry_for_a_domain_that_does_not_exist_never_comes_alive(bench: Bench) -> None:
    bench.dom0.write(b"/node", b"x")
    assert bench.dom0.chmod(b"/node", b"n0", b"r7") == OK
    assert bench.dom0.chmod(b"/node", b"n7") == "ENOENT"
    bench.toolstack.existing.add(7)
    newcomer = bench.introduced(7)
    assert newcomer.read(b"/node") == "EACCES"
    assert bench.dom0.perms(b"/node") == b"n0\0r7\0"
    bench.dom0.write(b"/node/below", b"")
    assert newcomer.read(b"/node/below") == "EACCES"


@pytest.mark.parametrize("entries", [(b"n1",), (b"n0", b"r1")])
def test_xsa_322_a_transaction_cannot_carry_rights_over_a_death(
    bench: Bench, entries: tuple[bytes, ...]
) -> None:
    tx = bench.dom0.begin()
    bench.dom0.write(b"/node", b"x", tx=tx)
    bench.dom0.chmod(b"/node", *entries, tx=tx)
    bench.xenstored.release(DomId(1))
    bench.introduced(1)
    assert bench.dom0.end(tx) == "EAGAIN"


def test_the_death_of_a_domain_is_no_conflict_for_who_looked_at_a_node_that_names_it(bench: Bench) -> None:
    """And what the transaction creates afterwards takes over no rights of the dead. Control: while the domain lives, a
    change of the node's permissions is a conflict.
    """
    for death in (False, True):
        bench.dom0.write(b"/node", b"x")
        bench.dom0.chmod(b"/node", b"n0", b"r1", b"r2")
        tx = bench.dom0.begin()
        assert bench.dom0.read(b"/node", tx=tx) == b"x"
        if not death:
            bench.dom0.chmod(b"/node", b"n0", b"r2")
            assert bench.dom0.end(tx) == "EAGAIN"
            continue
        bench.xenstored.release(DomId(1))
        assert bench.dom0.write(b"/node/below", b"y", tx=tx) == OK
        assert bench.dom0.end(tx) == OK
        assert bench.dom0.perms(b"/node/below") == b"n0\0r2\0"
        assert bench.introduced(1).read(b"/node/below") == "EACCES"
        assert bench.xenstored.check() == []


def test_the_root_and_special_names_survive_the_death_of_an_owner(bench: Bench) -> None:
    for path in (b"/", b"@releaseDomain"):
        assert bench.dom0.chmod(path, b"r1", b"r2") == OK
    bench.xenstored.release(DomId(1))
    for path in (b"/", b"@releaseDomain"):
        assert bench.dom0.perms(path) == b"r0\0r2\0"


def events_seen(client: Client) -> list[bytes]:
    return [path for path, _token in client.take_events()]


def test_xsa_115_events_reach_only_those_who_may_read(bench: Bench) -> None:
    """Rights on the node and on its parent, in all combinations, for each kind of change."""
    for number, (node, parent) in enumerate(itertools.product(b"nrwb", repeat=2)):
        top, path = b"/p%d" % number, b"/p%d/node" % number
        bench.dom0.write(path, b"")
        bench.dom0.chmod(path, b"n0", b"%c1" % node)
        bench.dom0.chmod(top, b"n0", b"%c1" % parent)
        spy = bench.domains[1]
        assert spy.watch(top) == OK
        assert events_seen(spy) == [top], "the first event says nothing about the node"
        may = bytes([node]) in READS or bytes([parent]) in READS
        changes: list[Callable[[], object]] = [
            partial(bench.dom0.write, path, b"x"),
            partial(bench.dom0.chmod, path, b"n0", b"r2", b"%c1" % node),
            partial(bench.dom0.rm, path),
        ]
        for change in changes:
            assert change() == OK
            assert events_seen(spy) == ([path] if may else [])


def test_s1_losing_the_right_to_read_is_the_last_thing_one_hears(bench: Bench) -> None:
    bench.dom0.write(b"/node", b"")
    bench.dom0.chmod(b"/node", b"r0")
    bench.domains[1].watch(b"/node")
    assert events_seen(bench.domains[1]) == [b"/node"]
    bench.dom0.chmod(b"/node", b"n0")
    assert events_seen(bench.domains[1]) == [b"/node"]
    bench.dom0.write(b"/node", b"secret")
    assert events_seen(bench.domains[1]) == []


def test_s1_special_events_go_to_those_whom_the_special_name_lets_read(bench: Bench) -> None:
    bench.dom0.chmod(b"/", b"r0")
    bench.dom0.chmod(b"@introduceDomain", b"n0", b"r2")
    for client in bench.domains[:3]:
        client.watch(b"@introduceDomain")
        client.watch(b"@releaseDomain")
        client.take_events()
    bench.introduced(9)
    bench.xenstored.shutdown(DomId(9))
    bench.xenstored.shutdown(DomId(9))
    bench.xenstored.release(DomId(9))
    assert events_seen(bench.dom0) == [b"@introduceDomain", b"@releaseDomain", b"@releaseDomain"]
    assert events_seen(bench.domains[1]) == []
    assert events_seen(bench.domains[2]) == [b"@introduceDomain"]
