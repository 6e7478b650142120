"""A few domains' event channels, wired to each other as the core does it; what leaves them is written down."""

from collections.abc import Iterable

from hypervisor.events.event_channels import EventChannels
from hypervisor.events.virq import GlobalVirqs
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import DomId, Port
from tests.recount_events import recount_events

DOM0, DOM1, DOM2 = DomId(0), DomId(1), DomId(2)


class FewDomains:
    """Domains 0 … n-1 with two vCPUs each; domain 0 handles the global VIRQs.

    `raised` lists (domid, port, vcpu) and `woken` (domid, vcpu), in order, as they left the state machines.
    """

    def __init__(
        self, count: int = 3, kind: type[EventChannels] = EventChannels, max_port: int = 4095
    ) -> None:
        self.raised: list[tuple[DomId, Port, int]] = []
        self.woken: list[tuple[DomId, int]] = []
        self.virqs = GlobalVirqs()
        self.tables: dict[DomId, EventChannels] = {}
        for number in range(count):
            self.create(DomId(number), kind, max_port)
        self.virqs.default = self.tables[DOM0]

    def create(self, domid: DomId, kind: type[EventChannels], max_port: int) -> EventChannels:
        self.tables[domid] = kind(
            domid,
            lambda port, vcpu: self.raised.append((domid, port, vcpu)),
            wake_poller=lambda vcpu: self.woken.append((domid, vcpu)),
            domains=self.find,
            nr_vcpus=lambda: 2,
            virqs=self.virqs,
            max_port=max_port,
        )
        return self.tables[domid]

    def find(self, domid: DomId) -> EventChannels:
        if domid not in self.tables:
            raise XenError(Errno.ESRCH, f"there is no domain {domid}")
        return self.tables[domid]

    def __getitem__(self, domid: int) -> EventChannels:
        return self.tables[DomId(domid)]

    def connect(self, a: int, b: int) -> tuple[Port, Port]:
        """A channel between two domains: a's port and b's."""
        port = self[a].alloc_unbound(DomId(b))
        return port, self[b].bind_interdomain(DomId(a), port)

    def recount(self) -> None:
        recount_events(self.tables.values())


def refused(errno: Errno, call: object, *arguments: object, **named: object) -> bool:
    """Whether the call is refused with exactly this error number."""
    try:
        call(*arguments, **named)  # type: ignore[operator]
    except XenError as error:
        return error.errno is errno
    return False


def ports_of_domain(raised: Iterable[tuple[DomId, Port, int]], domid: int) -> list[Port]:
    return [port for whose, port, _ in raised if whose == domid]
