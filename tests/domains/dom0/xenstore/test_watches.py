"""Who hears of what, how often, and in which order."""

from hypervisor.public.io.xs_wire import XS_RESET_WATCHES, XS_WATCH, XS_WATCH_EVENT
from tests.domains.dom0.xenstore.client import OK, Bench, decode, encode


def test_a_new_watch_fires_once_after_its_reply_even_for_what_does_not_exist(bench: Bench) -> None:
    connection = bench.domains[1].connection
    connection.feed(encode(XS_WATCH, b"/none/such\0token\0"))
    messages, _rest = decode(connection.outgoing.take())
    assert [m.kind for m in messages] == [XS_WATCH, XS_WATCH_EVENT]
    assert messages[1].payload == b"/none/such\0token\0"


def test_changes_below_reach_a_watch_and_changes_beside_do_not(bench: Bench) -> None:
    bench.dom0.watch(b"/a", b"t")
    bench.dom0.take_events()
    for path in (b"/a", b"/a/b/c", b"/ab", b"/b"):
        bench.dom0.write(path, b"")
    bench.dom0.chmod(b"/a/b", b"r0")
    bench.dom0.mkdir(b"/a/d")
    bench.dom0.mkdir(b"/a/d")
    bench.dom0.rm(b"/ab")
    expected = [b"/a", b"/a/b/c", b"/a/b", b"/a/d"]
    assert bench.dom0.take_events() == [(path, b"t") for path in expected]


def test_removal_is_told_once_above_and_to_each_watch_inside(bench: Bench) -> None:
    bench.dom0.write(b"/a/b/c", b"")
    for path in (b"/", b"/a/b", b"/a/b/c", b"/a/none"):
        bench.dom0.watch(path, b"at" + path)
    bench.dom0.take_events()
    bench.dom0.rm(b"/a")
    assert bench.dom0.take_events() == [(b"/a/b/c", b"at/a/b/c"), (b"/a/b", b"at/a/b"), (b"/a", b"at/")]


def test_a_relative_watch_is_told_relative_paths(bench: Bench) -> None:
    bench.home(1)
    bench.domains[1].watch(b"device", b"t")
    bench.domains[1].write(b"device/vbd/0", b"")
    assert bench.domains[1].take_events() == [(b"device", b"t"), (b"device/vbd/0", b"t")]
    assert bench.domains[1].watch(b"/local/domain/1/device", b"t") == "EEXIST"
    assert bench.domains[1].unwatch(b"/local/domain/1/device", b"t") == OK


def test_one_path_can_be_watched_with_many_tokens_and_by_many(bench: Bench) -> None:
    bench.dom0.mkdir(b"/a")
    bench.dom0.chmod(b"/a", b"r0")
    bench.dom0.watch(b"/a", b"1")
    bench.domains[1].watch(b"/a", b"1")
    bench.dom0.watch(b"/a", b"\xff 2")
    assert bench.dom0.watch(b"/a", b"1") == "EEXIST"
    bench.dom0.take_events()
    bench.domains[1].take_events()
    bench.dom0.write(b"/a", b"")
    assert bench.dom0.take_events() == [(b"/a", b"1"), (b"/a", b"\xff 2")]
    assert bench.domains[1].take_events() == [(b"/a", b"1")]
    assert bench.dom0.unwatch(b"/a", b"1") == OK
    bench.dom0.write(b"/a", b"")
    assert bench.dom0.take_events() == [(b"/a", b"\xff 2")]


def test_reset_watches_ends_those_of_the_caller_alone(bench: Bench) -> None:
    bench.dom0.watch(b"/tool")
    bench.domains[1].watch(b"/tool")
    assert bench.domains[1].ask(XS_RESET_WATCHES, b"") == OK
    assert len(bench.xenstored.watches) == 1


def test_an_event_that_waits_already_is_not_sent_twice(bench: Bench) -> None:
    other = bench.xenstored.open()
    bench.dom0.watch(b"/tool")
    bench.dom0.take_events()
    for _ in range(100):
        other.feed(encode(11, b"/tool\0x"))
        other.outgoing.take()
    assert bench.dom0.take_events() == [(b"/tool", b"token")]


def test_xsa_324_an_event_longer_than_a_message_is_dropped(bench: Bench) -> None:
    """A long token on a short path: fine when set, too long for what happens far below."""
    token = b"t" * 4000
    assert bench.dom0.watch(b"/a", token) == OK
    assert bench.dom0.take_events() == [(b"/a", token)]
    long, short = b"/a" + b"/x" * 500, b"/a/y"
    assert bench.dom0.write(long, b"") == OK
    assert bench.dom0.write(short, b"") == OK
    assert bench.dom0.take_events() == [(short, token)]


def test_xsa_324_tags_of_every_size_are_taken_or_end_only_that_connection(bench: Bench) -> None:
    for size in (0, 1, 4091, 4092, 4093, 5000):
        connection = bench.xenstored.open()
        connection.feed(encode(XS_WATCH, b"/a\0" + b"t" * size + b"\0"))
        if 4 + size > 4096:
            assert connection.dead
        else:
            messages, _rest = decode(connection.outgoing.take())
            assert [m.kind for m in messages] == [XS_WATCH, XS_WATCH_EVENT]
        bench.xenstored.close(connection)
    assert bench.dom0.read(b"/tool") == b""
