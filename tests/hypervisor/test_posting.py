"""What a process may post, and what the core takes of it, where the random tests do not reach (docs/posted-operations.md)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from domains.cpu.gate import Gate, VcpuPort
from domains.cpu.x86.pv.posting import Posting
from hypervisor.domain.posts import PostedOperations
from hypervisor.domain.requests import ProcessRequests
from hypervisor.domain.run_state import Run
from hypervisor.machine.entries import adjust_l1e
from hypervisor.machine.memory import MachineMemory
from hypervisor.mm.layout import EXTENT_FRAMES
from hypervisor.public.errno import Errno
from hypervisor.public.xen import (
    DOMID_SELF,
    MMUEXT_NEW_BASEPTR,
    MMUEXT_NEW_USER_BASEPTR,
    MMUEXT_PIN_L4_TABLE,
    Hypercall,
)
from hypervisor.wire.messages import Effect, Post, ProtocolError, Request
from tests.hypervisor.posting_process import PostingGate
from tests.inprocess import Built, InProcess, hypervisor_in_process
from tests.recount import recount

RW = 7


@pytest.fixture
def machine() -> Iterator[InProcess]:
    with hypervisor_in_process() as house:
        yield house


def test_a_frame_that_the_process_has_not_mapped_yet_is_not_mapped_by_a_post(machine: InProcess) -> None:
    """Another domain transfers a frame to this one, or Dom0 gives it one: its process maps the new extent with its next answer.
    A store to it before that would be one to a hole, which ends the process.
    """
    built = machine.build(pages=1024)
    hv, domain, memory = machine.hv, built.domain, MachineMemory()
    extents = {effect[2]: effect for effect in hv.first_effects(domain)}
    for _, _, mfn, nr_frames, offset in extents.values():
        memory.map(domain.memfd, mfn, nr_frames, offset)
    while (given := int(hv.mmu.allocator.alloc_page(domain.mem))) - given % EXTENT_FRAMES in extents:
        pass
    posting = Posting(PostingGate(domain.domid, memory), 0, hv.frames.shared, adjust_l1e)  # type: ignore[arg-type]
    at = entry_of(machine, built)
    assert not posting.entry(at, given << 12 | RW)
    new = next(e for e in hv.first_effects(domain) if e[0] == Effect.MAP_EXTENT and e[2] not in extents)
    memory.map(domain.memfd, new[2], new[3], new[4])
    assert posting.entry(at, given << 12 | RW)


def test_a_post_that_leaves_a_table_which_is_not_pinned_is_refused(machine: InProcess) -> None:
    """No honest process posts that. To leave such a table takes time, and what is left of it lies with the vCPU: two of them in
    one message, and nobody knew of the first any more, whose frames were lost until the machine's end.
    """
    built = machine.build(pages=2048)
    free = iter(built.p2m[-128:].tolist())
    kernel, user, pinned = (tree(machine, free) for _ in range(3))
    extended(machine, built, MMUEXT_PIN_L4_TABLE, pinned)
    extended(machine, built, MMUEXT_NEW_USER_BASEPTR, user)
    extended(machine, built, MMUEXT_NEW_BASEPTR, kernel)
    posts = struct.pack("<4Q", Post.NEW_BASEPTR, pinned, Post.NEW_USER_BASEPTR, pinned)
    with pytest.raises(ProtocolError, match="X3"):
        PostedOperations(machine.hv).perform(built.vcpu, posts)
    recount(machine.hv.mmu, [])
    machine.destroy(built.domain)
    recount(machine.hv.mmu, [])
    assert built.domain.domid not in machine.hv.domains


def test_nothing_is_left_to_be_torn_down_while_a_vcpu_executes(machine: InProcess) -> None:
    """A refused `mov cr3` had validated a part of its tables. Xen tears them down before the next update, which is a plain store
    then; a process that posts saw an L1 table still.
    """
    built = machine.build(pages=2048)
    machine.hypercall(built.vcpu, Hypercall.xen_version, 0)
    bad = tree(machine, iter(built.p2m[-64:].tolist()))
    machine.memory.frames[bad, 1] = bad << 12 | RW  # a linear entry must be read-only
    run = built.vcpu.run
    ProcessRequests(machine.hv).perform(built.vcpu, run.seq + 1, Request.NEW_BASEPTR, (bad, 0, 0, 0, 0))
    while machine.hv.work:
        while not machine.hv.work[0].step():
            pass
        machine.hv.work.popleft()
    assert run.state is Run.GUEST
    assert machine.processes.results[built.vcpu] == -Errno.EINVAL
    assert built.vcpu.mem.old_table is None
    recount(machine.hv.mmu, [])


def test_nothing_is_posted_while_a_sibling_waits_for_what_could_change_a_frame() -> None:
    gate = object.__new__(Gate)
    gate._ports = [VcpuPort() for _ in range(3)]
    own, one, other = gate._ports
    own.asks = int(Hypercall.mmuext_op)
    assert gate.is_alone(0)
    for asks in (*Hypercall, *Request):
        one.asks = int(asks)
        at_rest = asks in (Hypercall.sched_op, Hypercall.sched_op_compat, Request.START, Request.STOPPED)
        assert gate.is_alone(0) == at_rest, asks
        other.asks = int(Hypercall.sched_op)
        assert gate.is_alone(0) == at_rest, asks


def tree(machine: InProcess, free: Iterator[int]) -> int:
    """The L4 of a tree that takes more than one portion to be torn down."""
    words, l4, l3, l2 = machine.memory.frames, next(free), next(free), next(free)
    words[l4, 0], words[l3, 0] = l3 << 12 | RW, l2 << 12 | RW
    for slot in range(20):
        words[l2, slot] = (l1 := next(free)) << 12 | RW
        words[l1] = l1 << 12 | 5
    return l4


def extended(machine: InProcess, built: Built, command: int, mfn: int) -> None:
    """One mmuext_op."""
    machine.hv.mmu.guest.copy_to_guest(built.vcpu.mem, built.scratch, struct.pack("<QQQ", command, mfn, 0))
    assert machine.hypercall(built.vcpu, Hypercall.mmuext_op, built.scratch, 1, 0, DOMID_SELF) == 0


def entry_of(machine: InProcess, built: Built) -> int:
    """The machine address of the L1 entry for the guest's scratch page."""
    walked = machine.hv.mmu.walker.to_l1(built.vcpu.mem, built.scratch)
    assert walked is not None
    return int(walked.l1) << 12 | (built.scratch >> 12 & 511) << 3
