"""The page on hypercalls is what the dispatch tables say, and every hypercall the page calls missing is."""

import pytest

from hypervisor.public.errno import Errno
from hypervisor.public.xen import Hypercall
from scripts.coverage_table import PAGE, SUB_OPS, SubOps, link, page, refusal
from tests.inprocess import hypervisor_in_process


def test_the_committed_page_is_what_the_tables_say() -> None:
    assert PAGE.read_text() == page(), "run scripts/coverage-table"


def test_every_operation_of_a_table_is_one_of_xens() -> None:
    for ops in SUB_OPS:
        unknown = set(map(int, ops.table)) - set(map(int, ops.operations))
        assert not unknown, f"{ops.hypercall.name}: {unknown} have no name in hypervisor/public"


def test_every_file_the_page_names_is_there() -> None:
    for ops in SUB_OPS:
        for handler in ops.table.values():
            path = link(handler).partition("(")[2].rstrip(")")
            assert (PAGE.parent / path).is_file()


def test_what_the_page_calls_missing_answers_enosys() -> None:
    line = next(line for line in PAGE.read_text().splitlines() if line.startswith("`-ENOSYS`"))
    missing = [Hypercall[name] for name in line.split("`")[3::2]]
    assert missing
    with hypervisor_in_process() as machine:
        guest = machine.build()
        for number in missing:
            assert machine.hypercall(guest.vcpu, number) == -Errno.ENOSYS


IN_A_STRUCTURE = (Hypercall.mmuext_op, Hypercall.domctl, Hypercall.sysctl)
"""Hypercalls that have the operation's number in guest memory, not in their first argument."""


@pytest.mark.parametrize(
    "ops", [ops for ops in SUB_OPS if ops.hypercall not in IN_A_STRUCTURE], ids=lambda ops: ops.hypercall.name
)
def test_an_operation_that_the_page_calls_missing_answers_enosys(ops: SubOps) -> None:
    with hypervisor_in_process() as machine:
        guest = machine.build(privileged=True)
        for op in ops.operations:
            if op not in ops.table or refusal(ops.table[op]) == "ENOSYS":
                assert machine.hypercall(guest.vcpu, ops.hypercall, op) == -Errno.ENOSYS, op.name
