"""Rule S4 on the ring: whatever the guest writes into its page harms its own connection and nothing else."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.public.io.xs_wire import (
    XENSTORE_ERROR_NONE,
    XENSTORE_ERROR_PROTO,
    XENSTORE_ERROR_RINGIDX,
    XENSTORE_RECONNECT,
    XS_DIRECTORY,
    XS_READ,
    XS_WATCH,
    XS_WATCH_EVENT,
    XS_WRITE,
    xsd_sockmsg,
)
from hypervisor.public.types import DomId
from tests.domains.dom0.xenstore.client import OK, Bench, Guest, decode, encode, outcome

INDICES = st.sampled_from(
    [0, 1, 15, 16, 1023, 1024, 1025, 4096, 0x7FFFFFFF, 0x80000000, 0xFFFFFC00, 0xFFFFFFFF]
)
LENGTHS = st.sampled_from([0, 1, 15, 16, 1008, 1024, 4095, 4096, 4097, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])


def connected(bench: Bench, domid: int = 9) -> Guest:
    bench.home(domid)
    bench.xenstored.introduce(DomId(domid), gfn=5, port=6)
    return bench.toolstack.guests[domid]


def replies(data: bytes) -> list[bytes | str]:
    messages, rest = decode(data)
    assert not rest
    return [outcome(m) for m in messages]


def test_messages_larger_than_the_ring_pass_in_both_directions(bench: Bench) -> None:
    guest = connected(bench)
    bench.dom0.ask_raw(0, b"quota\0set\0node-size\0" + b"5000\0")
    value = bytes(range(256)) * 15
    requests = encode(XS_WRITE, b"big\0" + value) + encode(XS_READ, b"big\0")
    assert replies(guest.converse(requests)) == [OK, value]
    assert guest.notified


def test_the_indices_run_over_the_end_of_the_ring_and_of_32_bits(bench: Bench) -> None:
    guest = connected(bench)
    ring = guest.ring
    assert ring
    start = 0xFFFFFFFF - 100
    ring._requests._index = ring._replies._index = start
    for word in ("req_cons", "req_prod", "rsp_cons", "rsp_prod"):
        guest.words[word] = start
    for number in range(50):
        name = b"node-%d" % number
        requests = encode(XS_WRITE, name + b"\0" + name) + encode(XS_READ, name + b"\0")
        assert replies(guest.converse(requests)) == [OK, name]
    assert int(guest.words["req_prod"]) < start


def test_a_message_may_come_byte_by_byte(bench: Bench) -> None:
    guest = connected(bench)
    answer = b""
    for byte in encode(XS_DIRECTORY, b"/local/domain/9\0"):
        answer += guest.converse(bytes([byte]))
    assert replies(answer) == [b""]


class Onlooker:
    """A connection's transport that does something when a watch of its fires."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act

    def output_ready(self) -> None:
        self.act()

    def input_wanted(self) -> None:
        pass


def test_a_request_that_joins_others_still_waiting_needs_no_event(bench: Bench) -> None:
    """Linux tells the store only of what it adds to an empty ring (xenbus_comms.c); the end of the ring makes two pieces here."""
    guest = connected(bench)
    ring = guest.ring
    assert ring
    first = encode(XS_WRITE, b"state\0" + b"4")
    start = 1024 - len(first)
    ring._requests._index = start
    guest.words["req_cons"] = guest.words["req_prod"] = start
    third = encode(XS_READ, b"state\0")
    watcher = bench.xenstored.open()
    watcher.feed(encode(XS_WATCH, b"/local/domain/9/state\0t\0"))
    watcher.outgoing.take()
    watcher.transport = Onlooker(lambda: guest.send(third))
    guest.send(first + encode(XS_READ, b"state\0"))
    guest.poll()
    assert replies(guest.receive()) == [OK, b"4", b"4"]


def test_events_come_without_being_asked_for_and_notify(bench: Bench) -> None:
    guest = connected(bench)
    guest.converse(encode(XS_WATCH, b"state\0t\0"))
    before = guest.notified
    bench.dom0.write(b"/local/domain/9/state", b"4")
    assert guest.notified > before
    messages, _rest = decode(guest.receive())
    assert [(m.kind, m.payload) for m in messages] == [(XS_WATCH_EVENT, b"state\0t\0")]


def test_s2_a_guest_that_takes_no_replies_is_not_read_any_further(bench: Bench) -> None:
    guest = connected(bench)
    request = encode(XS_READ, b"/tool/not/for/you\0")
    data = request * 400
    for _ in range(100):
        data = data[guest.send(data) :]
        guest.poll()
    assert len(data) > 100 * len(request)
    answer = b""
    while received := guest.receive():
        answer += received
        data = data[guest.send(data) :]
        guest.poll()
        bench.xenstored.run()
    assert replies(answer) == ["EACCES"] * 400


def test_xsa_325_a_message_too_long_ends_this_connection_and_nothing_else(bench: Bench) -> None:
    guest, other = connected(bench), connected(bench, 4)
    guest.converse(encode(XS_WATCH, b"state\0t\0"))
    assert guest.converse(xsd_sockmsg(type=XS_READ, len=4097).pack()) == b""
    assert int(guest.words["error"]) == XENSTORE_ERROR_PROTO
    bench.dom0.write(b"/local/domain/9/state", b"4")
    assert guest.converse(encode(XS_READ, b"/tool\0")[:0]) == b""
    guest.send(encode(XS_READ, b"/tool\0"))
    guest.poll()
    assert guest.receive() == b""
    assert replies(other.converse(encode(XS_DIRECTORY, b"/local/domain/4\0"))) == [b""]
    bench.xenstored.introduce(DomId(9), gfn=5, port=6)
    assert int(guest.words["error"]) == XENSTORE_ERROR_NONE
    assert replies(guest.converse(encode(XS_DIRECTORY, b"/local/domain/9\0"))) == [b"state\0"]


def test_a_guest_may_ask_for_a_fresh_start(bench: Bench) -> None:
    guest = connected(bench)
    guest.converse(encode(XS_WATCH, b"state\0t\0"))
    guest.send(b"half a header")
    guest.poll()
    guest.words["connection"] = XENSTORE_RECONNECT
    guest.poll()
    words = ("req_cons", "req_prod", "rsp_cons", "rsp_prod", "connection", "error")
    assert [int(guest.words[word]) for word in words] == [0] * 6
    assert len(bench.xenstored.watches) == 0
    assert replies(guest.converse(encode(XS_READ, b"/tool\0"))) == ["EACCES"]


def test_what_the_guest_writes_over_our_own_indices_has_no_effect(bench: Bench) -> None:
    guest = connected(bench)
    for word in ("req_cons", "rsp_prod"):
        guest.words[word] = 0xDEADBEEF
    guest.words["req_prod"] = 0
    request = encode(XS_READ, b"/tool\0")
    guest.page[: len(request)] = request
    guest.words["req_prod"] = len(request)
    guest.poll()
    assert int(guest.words["req_cons"]) == len(request)
    assert replies(guest.receive()) == ["EACCES"]


@settings(max_examples=150, deadline=None)
@given(
    writes=st.lists(
        st.one_of(
            st.tuples(
                st.sampled_from(["req_cons", "req_prod", "rsp_cons", "rsp_prod", "connection"]), INDICES
            ),
            st.tuples(st.just("header"), LENGTHS),
            st.tuples(st.just("garbage"), st.binary(max_size=200)),
            st.tuples(st.just("request"), st.sampled_from([XS_READ, XS_WATCH, XS_WRITE, 99])),
            st.tuples(st.just("receive"), st.none()),
        ),
        max_size=12,
    )
)
def test_xsa_324_325_420_no_page_content_harms_anybody_else(writes: list[tuple[str, object]]) -> None:
    bench = Bench()
    guest, other = connected(bench), connected(bench, 4)
    for what, value in writes:
        if what == "header" and isinstance(value, int):
            guest.send(xsd_sockmsg(type=XS_WRITE, len=value).pack())
        elif what == "garbage" and isinstance(value, bytes):
            guest.send(value) if guest_is_sane(guest) else None
        elif what == "request" and isinstance(value, int):
            guest.send(encode(value, b"a\0b\0")) if guest_is_sane(guest) else None
        elif what == "receive":
            guest.words["rsp_cons"] = guest.words["rsp_prod"]
        else:
            guest.words[what] = value
        guest.poll()
        bench.xenstored.run()
    assert guest.page[2076:] == bytes(4096 - 2076), "nothing is written behind the structure"
    assert int(guest.words["error"]) in (XENSTORE_ERROR_NONE, XENSTORE_ERROR_PROTO, XENSTORE_ERROR_RINGIDX)
    assert replies(other.converse(encode(XS_DIRECTORY, b"/local/domain/4\0"))) == [b""]
    bench.xenstored.release(DomId(9))
    bench.check()
    assert bench.dom0.read(b"/local/domain/9") == "ENOENT"


def guest_is_sane(guest: Guest) -> bool:
    return ((int(guest.words["req_prod"]) - int(guest.words["req_cons"])) & 0xFFFFFFFF) <= 1024


def test_s4_every_impossible_index_is_noticed(bench: Bench) -> None:
    """Both start at 0: more than the ring is full of requests, or more taken than was ever sent."""
    for word, values in (("req_prod", (1025, 0x80000000, 0xFFFFFFFF)), ("rsp_cons", (1, 1025, 0x80000000))):
        for value in values:
            bench.xenstored.introduce(DomId(9), gfn=5, port=6)
            guest = bench.toolstack.guests[9]
            guest.words[word] = value
            guest.poll()
            assert int(guest.words["error"]) == XENSTORE_ERROR_RINGIDX
