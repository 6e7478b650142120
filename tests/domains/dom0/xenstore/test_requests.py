"""Every request by a table: who asks what, and what the reply is."""

import pytest

from domains.dom0.xenstore.dispatch import ERRNO, OPERATIONS
from domains.dom0.xenstore.errors import StoreError
from hypervisor.public.io.xs_wire import (
    XS_CONTROL,
    XS_DIRECTORY,
    XS_DIRECTORY_PART,
    XS_ERROR,
    XS_GET_DOMAIN_PATH,
    XS_GET_PERMS,
    XS_INTRODUCE,
    XS_INVALID,
    XS_IS_DOMAIN_INTRODUCED,
    XS_MKDIR,
    XS_READ,
    XS_RELEASE,
    XS_RESET_WATCHES,
    XS_RESUME,
    XS_RM,
    XS_SET_PERMS,
    XS_SET_TARGET,
    XS_TRANSACTION_END,
    XS_TRANSACTION_START,
    XS_TYPE_COUNT,
    XS_UNWATCH,
    XS_WATCH,
    XS_WATCH_EVENT,
    XS_WRITE,
    XenstoreMessage,
    xsd_errors,
)
from tests.domains.dom0.xenstore.client import OK, Bench

# (domid, transaction, request, payload, reply). Transaction: 0 none, "T" the one open transaction of domain
# 0.
Row = tuple[int, int, int, bytes, bytes | str]

CONVERSATIONS: dict[str, list[Row]] = {
    "a value is read as it was written, nuls and all": [
        (0, 0, XS_WRITE, b"/a\0one\0two\xff", OK),
        (0, 0, XS_READ, b"/a\0", b"one\0two\xff"),
        (0, 0, XS_WRITE, b"/a\0", OK),
        (0, 0, XS_READ, b"/a\0", b""),
    ],
    "write and mkdir create missing parents with empty values": [
        (0, 0, XS_WRITE, b"/a/b/c\0x", OK),
        (0, 0, XS_READ, b"/a/b\0", b""),
        (0, 0, XS_MKDIR, b"/a/d/e\0", OK),
        (0, 0, XS_DIRECTORY, b"/a\0", b"b\0d\0"),
    ],
    "mkdir leaves an existing value alone": [
        (0, 0, XS_WRITE, b"/a\0x", OK),
        (0, 0, XS_MKDIR, b"/a\0", OK),
        (0, 0, XS_READ, b"/a\0", b"x"),
    ],
    "rm removes all below, and is content if only the parent exists": [
        (0, 0, XS_WRITE, b"/a/b/c\0x", OK),
        (0, 0, XS_RM, b"/a\0", OK),
        (0, 0, XS_READ, b"/a/b/c\0", "ENOENT"),
        (0, 0, XS_RM, b"/a\0", OK),
        (0, 0, XS_RM, b"/a/b\0", "ENOENT"),
        (0, 0, XS_DIRECTORY, b"/\0", b"tool\0"),
    ],
    "the root stays": [(0, 0, XS_RM, b"/\0", "EINVAL"), (1, 0, XS_RM, b"/\0", "EACCES")],
    "malformed payloads": [
        (0, 0, XS_READ, b"/tool", "EINVAL"),
        (0, 0, XS_READ, b"/tool\0/tool\0", "EINVAL"),
        (0, 0, XS_READ, b"", "EINVAL"),
        (0, 0, XS_WRITE, b"/a", "EINVAL"),
        (0, 0, XS_WRITE, b"", "EINVAL"),
        (0, 0, XS_SET_PERMS, b"/tool\0", "EINVAL"),
        (0, 0, XS_SET_PERMS, b"", "EINVAL"),
        (0, 0, XS_SET_PERMS, b"/tool\0x0\0", "EINVAL"),
        (0, 0, XS_SET_PERMS, b"/tool\0r\0", "EINVAL"),
        (0, 0, XS_SET_PERMS, b"/tool\0r65536\0", "EINVAL"),
        (0, 0, XS_SET_PERMS, b"/tool\0r-1\0", "EINVAL"),
        (0, 0, XS_WATCH, b"/a\0", "EINVAL"),
        (0, 0, XS_WATCH, b"/a\0t\0u\0", "EINVAL"),
        (0, 0, XS_UNWATCH, b"/a\0", "EINVAL"),
        (0, 0, XS_UNWATCH, b"/a\0t\0", "ENOENT"),
        (0, 0, XS_GET_DOMAIN_PATH, b"\0", "EINVAL"),
        (0, 0, XS_GET_DOMAIN_PATH, b"x\0", "EINVAL"),
        (0, 0, XS_GET_DOMAIN_PATH, b"65536\0", "EINVAL"),
        (0, 0, XS_DIRECTORY_PART, b"/\0", "EINVAL"),
        (0, 0, XS_DIRECTORY_PART, b"/\0x\0", "EINVAL"),
        (0, 0, XS_DIRECTORY_PART, b"/\0-1\0", "EINVAL"),
    ],
    "what is no request": [
        (1, 0, XS_WATCH_EVENT, b"\0", "ENOSYS"),
        (1, 0, XS_ERROR, b"\0", "ENOSYS"),
        (1, 0, 20, b"\0", "ENOSYS"),
        (1, 0, XS_TYPE_COUNT, b"\0", "ENOSYS"),
        (1, 0, XS_INVALID, b"\0", "ENOSYS"),
        (1, 0, 0xFFFFFFFF, b"\0", "ENOSYS"),
    ],
    "a domain's relative path starts at its home": [
        (0, 0, XS_WRITE, b"/local/domain/1/x\0y", OK),
        (0, 0, XS_SET_PERMS, b"/local/domain/1\0n1\0", OK),
        (0, 0, XS_SET_PERMS, b"/local/domain/1/x\0n1\0", OK),
        (1, 0, XS_READ, b"x\0", b"y"),
        (1, 0, XS_WRITE, b"a/b\0z", OK),
        (1, 0, XS_READ, b"/local/domain/1/a/b\0", b"z"),
        (1, 0, XS_GET_PERMS, b"a\0", b"n1\0"),
    ],
    "special names have permissions and nothing else": [
        (0, 0, XS_GET_PERMS, b"@releaseDomain\0", b"n0\0"),
        (0, 0, XS_SET_PERMS, b"@introduceDomain\0n0\0r1\0", OK),
        (0, 0, XS_GET_PERMS, b"@introduceDomain\0", b"n0\0r1\0"),
        (0, 0, XS_READ, b"@releaseDomain\0", "EINVAL"),
        (0, 0, XS_RM, b"@releaseDomain\0", "EINVAL"),
        (0, 0, XS_WRITE, b"@other\0x", "EINVAL"),
        (0, 0, XS_SET_PERMS, b"@other\0n0\0", "ENOENT"),
        (0, 0, XS_DIRECTORY, b"/\0", b"tool\0"),
    ],
    "V1: only the control domain manages domains": [
        (1, 0, XS_CONTROL, b"help\0", "EACCES"),
        (1, 0, XS_INTRODUCE, b"9\0001\0001\0", "EACCES"),
        (1, 0, XS_RELEASE, b"2\0", "EACCES"),
        (1, 0, XS_RESUME, b"2\0", "EACCES"),
        (1, 0, XS_SET_TARGET, b"1\0002\0", "EACCES"),
        (1, 0, XS_IS_DOMAIN_INTRODUCED, b"2\0", "EACCES"),
        (1, 0, XS_GET_DOMAIN_PATH, b"2\0", b"/local/domain/2\0"),
    ],
    "introduce and release": [
        (0, 0, XS_IS_DOMAIN_INTRODUCED, b"9\0", b"F\0"),
        (0, 0, XS_INTRODUCE, b"9\000123\0", "EINVAL"),
        (0, 0, XS_INTRODUCE, b"9\000123\0000\0", "EINVAL"),
        (0, 0, XS_INTRODUCE, b"0\000123\0001\0", "EINVAL"),
        (0, 0, XS_INTRODUCE, b"32752\000123\0001\0", "EINVAL"),
        (0, 0, XS_INTRODUCE, b"8\000123\0001\0", "ENOENT"),
        (0, 0, XS_INTRODUCE, b"9\000-123\0005\0", OK),
        (0, 0, XS_IS_DOMAIN_INTRODUCED, b"9\0", b"T\0"),
        (0, 0, XS_IS_DOMAIN_INTRODUCED, b"32752\0", b"T\0"),
        (0, 0, XS_RELEASE, b"9\0", OK),
        (0, 0, XS_RELEASE, b"9\0", "ENOENT"),
        (0, 0, XS_RELEASE, b"0\0", "EINVAL"),
        (0, 0, XS_RESUME, b"9\0", "ENOENT"),
        (0, 0, XS_RESUME, b"1\0", OK),
        (0, 0, XS_SET_TARGET, b"1\0009\0", "ENOENT"),
        (0, 0, XS_SET_TARGET, b"1\0", "EINVAL"),
    ],
    "an unknown transaction": [
        (0, 99, XS_READ, b"/tool\0", "ENOENT"),
        (0, 99, XS_TRANSACTION_START, b"\0", "ENOENT"),
        (0, 0, XS_TRANSACTION_END, b"T\0", "ENOENT"),
        (0, 99, XS_WATCH, b"/tool\0t\0", OK),
        (0, 99, XS_UNWATCH, b"/tool\0t\0", OK),
        (0, 99, XS_RESET_WATCHES, b"\0", "ENOENT"),
    ],
    "transactions": [
        (0, 0, XS_TRANSACTION_START, b"\0", b"1\0"),
        (0, 1, XS_TRANSACTION_START, b"\0", "EBUSY"),
        (0, 1, XS_TRANSACTION_END, b"X\0", "EINVAL"),
        (0, 1, XS_WRITE, b"/a\0x", OK),
        (0, 0, XS_READ, b"/a\0", "ENOENT"),
        (1, 1, XS_READ, b"/a\0", "ENOENT"),
        (0, 1, XS_TRANSACTION_END, b"T\0", OK),
        (0, 0, XS_READ, b"/a\0", b"x"),
        (0, 1, XS_READ, b"/a\0", "ENOENT"),
    ],
    "XSA-330: reset_watches inside a transaction": [
        (1, 0, XS_TRANSACTION_START, b"\0", b"1\0"),
        (1, 0, XS_TRANSACTION_START, b"\0", b"2\0"),
        (1, 1, XS_RESET_WATCHES, b"\0", OK),
        (1, 1, XS_TRANSACTION_END, b"T\0", "ENOENT"),
        (1, 2, XS_TRANSACTION_END, b"T\0", "ENOENT"),
    ],
    "control": [
        (0, 0, XS_CONTROL, b"check\0", OK),
        (0, 0, XS_CONTROL, b"print\0hello\0", OK),
        (0, 0, XS_CONTROL, b"quota\0set\0nodes\0002000\0", OK),
        (0, 0, XS_CONTROL, b"quota\0set\0nodes\0000\0", "EINVAL"),
        (0, 0, XS_CONTROL, b"quota\0set\0none\0001\0", "EINVAL"),
        (0, 0, XS_CONTROL, b"quota\00077\0", "ENOENT"),
        (0, 0, XS_CONTROL, b"live-update\0", "ENOSYS"),
        (0, 0, XS_CONTROL, b"quota-soft\0", "ENOSYS"),
        (0, 0, XS_CONTROL, b"no-such-command\0", "EINVAL"),
        (0, 0, XS_CONTROL, b"quota\0max\0-x\0", "EINVAL"),
        (0, 0, XS_CONTROL, b"\0", "EINVAL"),
        (0, 0, XS_CONTROL, b"", "EINVAL"),
    ],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_requests_are_answered_as_xen_answers_them(bench: Bench, name: str) -> None:
    for domid, tx, kind, payload, reply in CONVERSATIONS[name]:
        client = bench.domains[domid]
        assert client.ask_raw(kind, payload, tx) == reply, (domid, tx, XenstoreMessage(kind).name, payload)


def test_every_request_type_has_a_handler_and_every_error_a_name_on_the_wire() -> None:
    silent = {XS_WATCH_EVENT, XS_ERROR, XS_TYPE_COUNT, XS_INVALID}
    assert set(OPERATIONS) == set(XenstoreMessage) - silent
    assert set(ERRNO) == set(StoreError.__subclasses__())
    assert set(ERRNO.values()) <= set(xsd_errors)


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/a/",
        b"//a",
        b"/a//b",
        b"/a b",
        b"/a.b",
        b"/\xe9",
        b"/a\n",
        b"a/",
        b"@x",
        b"/" + b"x" * 3072,
        b"x" * 2049,
    ],
)
def test_s4_an_invalid_path_is_refused(bench: Bench, path: bytes) -> None:
    for client in bench.domains[:2]:
        assert client.write(path, b"x") == "EINVAL"
        assert client.read(path) == "EINVAL"


@pytest.mark.parametrize("path", [b"/-_@aZ09", b"/@x", b"/" + b"x" * 3071, b"x" * 2048])
def test_s4_the_longest_valid_paths_are_taken(bench: Bench, path: bytes) -> None:
    assert bench.dom0.write(path, b"x") == OK
    assert bench.dom0.read(path) == b"x"


def test_s4_a_directory_that_does_not_fit_is_read_in_parts(bench: Bench) -> None:
    names = [b"child-%04d" % number for number in range(1000)]
    for name in names:
        assert bench.dom0.mkdir(b"/d/" + name) == OK
    assert bench.dom0.ls(b"/d") == "E2BIG"
    read: list[bytes] = []
    generations = set()
    while True:
        offset = sum(len(name) + 1 for name in read)
        reply = bench.dom0.need(XS_DIRECTORY_PART, b"/d", b"%d" % offset)
        assert len(reply) <= 4096
        generation, *part, end = reply.split(b"\0")
        assert end == b""
        generations.add(generation)
        if part[-1] == b"":
            read += part[:-1]
            break
        read += part
    assert read == names
    assert len(generations) == 1
    assert bench.dom0.rm(b"/d/child-0000") == OK
    assert bench.dom0.need(XS_DIRECTORY_PART, b"/d", b"99999").split(b"\0")[0] not in generations


def test_xsa_418_trees_of_a_thousand_levels_are_no_deeper_than_others(bench: Bench) -> None:
    home = bench.home(1)
    deep = b"/x" * 900
    for tx in (0, bench.domains[1].begin()):
        assert bench.domains[1].write(home + deep, b"bottom", tx=tx) == OK
        assert bench.domains[1].read(home + deep, tx=tx) == b"bottom"
        assert bench.domains[1].rm(home + b"/x", tx=tx) == OK
        assert bench.domains[1].ls(home, tx=tx) == []
    assert bench.domains[1].end(tx) == OK
    assert bench.dom0.write(b"/x" * 1500, b"") == OK
    assert bench.dom0.chmod(b"/x", b"n2") == OK
    bench.xenstored.release(bench.domains[2].connection.domain.domid)
    assert bench.dom0.read(b"/x") == "ENOENT"


def test_control_shows_limits_and_what_a_domain_uses(bench: Bench) -> None:
    bench.home(1)
    assert b"nodes            :     1000 " in bench.dom0.need(XS_CONTROL, b"quota")
    assert b"nodes            :        1 (max        1)" in bench.dom0.need(XS_CONTROL, b"quota", b"1")
    assert b"print" in bench.dom0.need(XS_CONTROL, b"help")
    bench.dom0.ask(XS_CONTROL, b"print", b"hello")
    assert bench.lines == ["control: hello"]
    assert bench.dom0.ask(XS_CONTROL, b"memreport") == b"OK\0"
    assert any(line.startswith("memreport: domain 1: nodes 1, ") for line in bench.lines)


def test_control_shows_the_most_that_a_domain_has_used_until_it_begins_anew(bench: Bench) -> None:
    bench.home(1)
    for name in (b"a", b"b", b"c"):
        assert bench.domains[1].write(name, b"") == OK
        assert bench.domains[1].watch(name) == OK
    for name in (b"a", b"b"):
        assert bench.domains[1].unwatch(name) == OK
    assert b"watches          :        3\n" in bench.dom0.need(XS_CONTROL, b"quota", b"max")
    assert b"watches          :        1\n" in bench.dom0.need(XS_CONTROL, b"quota", b"max", b"-r")


def test_a_child_is_removed_and_no_other_whose_name_contains_its_name(bench: Bench) -> None:
    names = [b"ab", b"b", b"ba", b"bab", b"a"]
    for name in names:
        assert bench.dom0.mkdir(b"/x/" + name) == OK
    for name in (b"b", b"ab", b"a", b"ba", b"bab"):
        assert bench.dom0.rm(b"/x/" + name) == OK
        names.remove(name)
        assert bench.dom0.ls(b"/x") == names
