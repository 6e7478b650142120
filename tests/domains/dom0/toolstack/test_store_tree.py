"""What the toolstack writes into the store for a new domain."""

from uuid import uuid4

from domains.dom0.toolstack.store_tree import OWN_NODES, home, make_tree, read_or_none
from hypervisor.public.types import DomId
from tests.domains.kernel.two_domains import TwoDomains
from tests.inprocess import hypervisor_in_process


def test_a_new_domains_tree_is_made_in_turns_and_its_name_in_the_first() -> None:
    """Some fifty requests at a stretch would hold Dom0's loop; two domains made side by side must not get one name."""
    with hypervisor_in_process() as machine:
        both = TwoDomains(machine)
        domid, store = DomId(both.domid), both.store
        making = make_tree(store, domid, uuid4(), "new", 10**18)
        next(making)
        assert store.read(f"{home(domid)}/name") == "new"
        assert read_or_none(store, f"{home(domid)}/{OWN_NODES[0]}") is None
        for _turn in making:
            store.write("/neighbour", "is served meanwhile")
        for node in OWN_NODES:
            assert store.get_permissions(f"{home(domid)}/{node}") == [f"n{domid}"]
        assert store.get_permissions(f"{home(domid)}/device") == ["n0", f"r{domid}"]
