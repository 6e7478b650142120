"""The process of a PV domain as far as it posts: what it does to its guest's page tables before it tells the core.

The judgement is the real one (domains/cpu/x86/pv/posting.py); here is only a gate without a core behind it. So whatever
the random tests let it post must be performed, unless somebody writes into page tables without asking.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from domains.cpu.x86.pv.posting import Posting
from hypervisor.domain.domain import Domain, Vcpu
from hypervisor.domain.hypervisor import Hypervisor
from hypervisor.domain.posts import PostedOperations
from hypervisor.machine.memory import MachineMemory
from hypervisor.public.types import U64
from hypervisor.wire.messages import MAX_POSTS, Post

Wanted = tuple[int, int, int]
"""(Post, address or frame, entry): what the guest wants to be done."""


def words_of(wanted: Iterable[Wanted]) -> bytes:
    """As a process posts it, whether it has done it or not; a kind that is none is posted, too."""
    words = array("Q")
    for kind, where, value in wanted:
        words.extend((where & U64 & ~7, value & U64) if kind == Post.PT_ENTRY else (kind, where & U64))
    return words.tobytes()


@dataclass
class Kept:
    """`words`: what was posted and is not told yet."""

    words: list[int] = field(default_factory=list)

    def add(self, _vcpu: int, first: int, second: int) -> None:
        self.words += (first, second)

    def send(self, _vcpu: int) -> None:
        """Later: what is sent at once may arrive late."""

    def send_at_once(self, vcpu: int, first: int, second: int) -> None:
        """Later, too."""
        self.add(vcpu, first, second)


@dataclass
class PostingGate:
    domid: int
    memory: MachineMemory
    posts: Kept = field(default_factory=Kept)
    meter: None = None

    def is_alone(self, _vcpu: int) -> bool:
        return True


class PostingProcess:
    """One domain's. `vcpu`: the one whose turn it is."""

    def __init__(self, hv: Hypervisor, domain: Domain) -> None:
        self.hv = hv
        self.domain = domain
        self.gate = PostingGate(domain.domid, hv.memory)
        self.vcpu: Vcpu | None = None

    @property
    def pending(self) -> bool:
        return bool(self.gate.posts.words)

    def act(self, vcpu: Vcpu, wanted: Wanted) -> bool:
        """Do what the guest wants, if its outcome is certain; whether it is."""
        if self.vcpu is not vcpu or len(self.gate.posts.words) >= 2 * MAX_POSTS:
            self.tell()
        self.vcpu = vcpu
        rules = self.domain.mem.rules
        posting = Posting(self.gate, vcpu.vcpu_id, self.hv.frames.shared, rules.adjust_l1e)  # type: ignore[arg-type]
        kind, where, value = wanted
        if kind == Post.PT_ENTRY:
            return posting.entry(where & ~7, value, where & 1 and 0x60)
        if kind == Post.SINGLESHOT_TIMER:
            return posting.timer(where)
        mem = vcpu.mem
        if mem.compat_l4 is not None or mem.domain.m2p_strict or mem.ldt_entries:
            return False
        now = self._loaded(kind, mem.cr3 if kind == Post.NEW_BASEPTR else mem.user_cr3)
        if not posting.may_load(where, now) or (kind == Post.NEW_BASEPTR and not posting.shows_m2p(where)):
            return False
        posting.loaded(Post(kind), where)
        return True

    def _loaded(self, kind: int, recorded: int | None) -> int:
        """The table in force: the one that was posted last, else the one that the core knows of."""
        words = self.gate.posts.words
        posted = [words[at + 1] for at in range(0, len(words), 2) if words[at] & 7 == kind]
        return posted[-1] if posted else recorded or 0

    def tell(self) -> None:
        """Tell the core. ProtocolError: it refuses one of the posts."""
        words, self.gate.posts.words = self.gate.posts.words, []
        if words and self.vcpu is not None:
            PostedOperations(self.hv).perform(self.vcpu, array("Q", words).tobytes())
