"""The whole store against the naive model: permissions, transactions, watches and quotas in any order.

Each transaction is also a copy of the model's tree, taken at its start; it may commit as long as nobody has
changed the tree (then the copy becomes the tree), and must not if a node that it has used was changed.
"""

import copy

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domains.dom0.xenstore.path import Path
from domains.dom0.xenstore.quota import Quota
from hypervisor.public.types import DomId
from tests.domains.dom0.xenstore.client import OK, Bench, Client
from tests.domains.dom0.xenstore.model import Model, Tree, parent

DOMIDS = st.integers(0, 2)
PATHS = st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/a/d", "/e", "/e/f", "/e/f/g/h"])
VALUES = st.sampled_from([b"", b"one", b"two"])
LETTERS = st.sampled_from("nrwb")
PERMS = st.lists(st.tuples(LETTERS, DOMIDS), min_size=1, max_size=3)
NODES_MAX = 8


class StoreMachine(RuleBasedStateMachine):
    """One open transaction at most, and per domain one watch on the root: it hears of everything it may
    know."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.bench.xenstored.limits[Quota.NODES] = NODES_MAX
        self.model = Model(nodes_max=NODES_MAX)
        self.transaction: tuple[int, int, Tree] | None = None  # domid, id, the model's copy
        self.disturbed = False  # the tree has changed since the transaction began
        self.doomed = False  # and so has something the transaction has certainly used
        self.broken = False  # a quota has refused something in the transaction
        self.used: set[str] = set()

    @initialize(letter=LETTERS)
    def open_the_root(self, letter: str) -> None:
        assert self.bench.dom0.rm(b"/tool") == OK
        self.chmod(0, False, "/", [(letter, 0), ("b", 1)])
        for domid in range(3):
            client = self.bench.domains[domid]
            assert client.watch(b"/") == OK
            client.take_events()

    def place(self, domid: int, inside: bool, path: str, changes: bool) -> tuple[Client, int, Tree]:
        """Where an action happens: in the transaction, if there is one of this domain, or in the store."""
        client = self.bench.domains[domid]
        if inside and self.transaction and self.transaction[0] == domid:
            self.used.add(path)
            return client, self.transaction[1], self.transaction[2]
        if changes:
            self.before = copy.deepcopy(self.model.tree)
        return client, 0, self.model.tree

    def settle(self, tx: int, written: str | None) -> None:
        """After an action on the store itself: what has it done to the open transaction? To write what is there
        already is a change as well (`written`)."""
        if tx:
            return
        changed = {p for p in self.before.keys() | self.model.tree if self.entry(p) != self.before.get(p)}
        changed |= {written} if written else set()
        self.disturbed |= bool(changed)
        self.doomed |= bool(changed & self.used)

    def entry(self, path: str) -> object:
        return self.model.tree.get(path)

    @rule(domid=DOMIDS, inside=st.booleans(), path=PATHS)
    def read(self, domid: int, inside: bool, path: str) -> None:
        client, tx, tree = self.place(domid, inside, path, changes=False)
        if tx and self.disturbed:
            client.read(path.encode(), tx=tx)  # what it sees depends on what it saw before
            return
        assert client.read(path.encode(), tx=tx) == self.model.read(tree, domid, path)
        names = client.ls(path.encode(), tx=tx)
        found = names if isinstance(names, str) else {path.rstrip("/") + "/" + n.decode() for n in names}
        assert found == self.model.children(tree, domid, path)

    @rule(domid=DOMIDS, inside=st.booleans(), path=PATHS, value=VALUES)
    def write(self, domid: int, inside: bool, path: str, value: bytes) -> None:
        client, tx, tree = self.place(domid, inside, path, changes=True)
        reply = client.write(path.encode(), value, tx=tx)
        if tx == 0 or not self.disturbed:
            assert reply == (self.model.write(tree, domid, path, value) or OK)
        self.broken |= bool(tx) and reply == "ENOSPC"
        self.settle(tx, path if reply == OK else None)

    @rule(domid=DOMIDS, inside=st.booleans(), path=PATHS)
    def rm(self, domid: int, inside: bool, path: str) -> None:
        client, tx, tree = self.place(domid, inside, path, changes=True)
        reply = client.rm(path.encode(), tx=tx)
        if tx == 0 or not self.disturbed:
            assert reply == (self.model.rm(tree, domid, path) or OK)
        self.settle(tx, None)

    @rule(domid=DOMIDS, inside=st.booleans(), path=PATHS, perms=PERMS)
    def chmod(self, domid: int, inside: bool, path: str, perms: list[tuple[str, int]]) -> None:
        client, tx, tree = self.place(domid, inside, path, changes=True)
        reply = client.chmod(path.encode(), *(f"{letter}{who}".encode() for letter, who in perms), tx=tx)
        if tx == 0 or not self.disturbed:
            assert reply == (self.model.chmod(tree, domid, path, perms) or OK)
        self.settle(tx, path if reply == OK else None)

    @precondition(lambda self: self.transaction is None)
    @rule(domid=DOMIDS)
    def begin(self, domid: int) -> None:
        number = self.bench.domains[domid].begin()
        self.transaction = (domid, number, copy.deepcopy(self.model.tree))
        self.disturbed = self.doomed = self.broken = False
        self.used = set()

    @precondition(lambda self: self.transaction is not None)
    @rule(commit=st.booleans())
    def end(self, commit: bool) -> None:
        assert self.transaction
        domid, number, tree = self.transaction
        self.transaction = None
        reply = self.bench.domains[domid].end(number, b"T" if commit else b"F")
        if not commit:
            assert reply == OK
        elif self.broken:
            assert reply == "ENOMEM"
        elif not self.disturbed:
            assert reply == OK
            self.model.tree = tree
        elif self.doomed:
            assert reply == "EAGAIN"
        elif reply == OK:
            self.model.tree = self.snapshot()  # it got through beside the changes: `sound` judges the result

    @precondition(lambda self: self.transaction is None)
    @rule(domid=st.integers(1, 2))
    def die_and_come_back(self, domid: int) -> None:
        self.bench.xenstored.release(DomId(domid))
        self.bench.domains[domid] = self.bench.introduced(domid)
        if self.model.tree["/"][1][0][1] == domid:
            letter = self.model.tree["/"][1][0][0]
            self.model.tree["/"] = (self.model.tree["/"][0], [(letter, 0), *self.model.tree["/"][1][1:]])
        self.model.release(self.model.tree, domid)
        self.bench.domains[domid].watch(b"/")
        self.bench.domains[domid].take_events()

    @precondition(lambda self: self.transaction is None)
    @rule()
    def another_store_takes_over(self) -> None:
        self.bench.take_over()
        assert self.bench.dom0.watch(b"/") == OK
        self.bench.dom0.take_events()

    @invariant()
    def nobody_hears_of_what_he_may_not_read(self) -> None:
        for domid in range(3):
            for raw, _token in self.bench.domains[domid].take_events():
                path = raw.decode()
                if path in self.model.tree and self.transaction is None and not self.told_before(domid, path):
                    readable = {path, parent(path)} & self.readable(domid)
                    assert readable, f"domain {domid} was told of {path}"

    def told_before(self, domid: int, path: str) -> bool:
        """Whether it could read the node before the last change: then it is told of the change as well."""
        before = getattr(self, "before", {})
        return any(p in before and "r" in self.model.rights(before, domid, p) for p in (path, parent(path)))

    def readable(self, domid: int) -> set[str]:
        return {path for path in self.model.tree if "r" in self.model.rights(self.model.tree, domid, path)}

    @invariant()
    def sound(self) -> None:
        self.bench.check()
        assert self.snapshot() == self.model.tree
        for domid in (1, 2):
            owned = sum(entry[1][0][1] == domid for entry in self.model.tree.values())
            assert self.bench.domains[domid].connection.domain.usage[Quota.NODES] == owned

    def snapshot(self) -> Tree:
        """The store's tree, in the model's words."""
        letters = ("n", "r", "w", "b")
        tree: Tree = {}
        waiting = ["/"]
        while waiting:
            path = waiting.pop()
            node = self.bench.xenstored.store.get(Path(path))
            assert node
            tree[path] = (node.value, [(letters[perm.access], int(perm.domid)) for perm in node.perms])
            waiting += [path.rstrip("/") + "/" + name.decode() for name in node.names()]
        return tree


TestStoreAgainstModel = StoreMachine.TestCase
TestStoreAgainstModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
