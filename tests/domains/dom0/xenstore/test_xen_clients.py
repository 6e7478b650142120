"""Xen's own clients, unmodified, against the socket server in a process of its own: rule "works on it"."""

import contextlib
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator

import pytest
import pyxs

TOOLS = ("xenstore-ls", "xenstore-read", "xenstore-write", "xenstore-watch", "xenstore-rm", "xenstore-chmod")

needs_tools = pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)), reason="Debian's xenstore-utils are not installed"
)


@pytest.fixture
def path() -> Iterator[str]:
    """The socket of a running store."""
    with tempfile.TemporaryDirectory(prefix="xs") as folder:
        path = os.path.join(folder, "socket")
        command = [sys.executable, "-m", "tests.domains.dom0.xenstore.loop", path]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield path
            assert process.poll() is None
            process.stdin.close()
            assert process.wait(timeout=20) == 0
        assert os.listdir(folder) == []


def run(path: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, XENSTORED_PATH=path)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


def ok(path: str, *command: str) -> str:
    result = run(path, *command)
    assert result.returncode == 0, result.stderr
    return result.stdout


@needs_tools
@pytest.mark.needs_xenstore_utils
def test_debians_tools_write_read_list_and_remove(path: str) -> None:
    ok(path, "xenstore-write", "/vm/name", "guest", "/vm/memory", "64")
    assert ok(path, "xenstore-read", "/vm/name", "/vm/memory") == "guest\n64\n"
    assert ok(path, "xenstore-list", "/vm") == "name\nmemory\n"
    assert ok(path, "xenstore-ls", "/vm") == 'name = "guest"\nmemory = "64"\n'
    assert run(path, "xenstore-exists", "/vm/name").returncode == 0
    assert run(path, "xenstore-exists", "/vm/none").returncode == 1
    ok(path, "xenstore-chmod", "/vm/name", "r0", "w1")
    assert "(r0,w1)" in ok(path, "xenstore-ls", "-p", "/vm")
    ok(path, "xenstore-rm", "/vm")
    assert run(path, "xenstore-read", "/vm/name").returncode != 0
    assert "couldn't read path /vm/name" in run(path, "xenstore-read", "/vm/name").stderr


@needs_tools
@pytest.mark.needs_xenstore_utils
def test_debians_ls_shows_a_directory_longer_than_a_message(path: str) -> None:
    names = [f"node-number-{number:04}" for number in range(600)]
    for start in range(0, 600, 100):
        pairs = [word for name in names[start : start + 100] for word in (f"/many/{name}", "x")]
        ok(path, "xenstore-write", *pairs)
    assert ok(path, "xenstore-list", "/many").split() == names


@needs_tools
@pytest.mark.needs_xenstore_utils
def test_debians_watch_is_told_of_changes(path: str) -> None:
    environment = dict(os.environ, XENSTORED_PATH=path)
    command = ["stdbuf", "-oL", "xenstore-watch", "-n", "3", "/a"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout
        assert watcher.stdout.readline() == "/a\n"
        ok(path, "xenstore-write", "/a/b", "x")
        assert watcher.stdout.readline() == "/a/b\n"
        ok(path, "xenstore-rm", "/a")
        assert watcher.stdout.readline() == "/a\n"
        assert watcher.wait(timeout=20) == 0


def opened(path: str) -> pyxs.Client:
    """A client of pyxs, whose constructor has no types."""
    return pyxs.Client(unix_socket_path=path)  # type: ignore[no-untyped-call]


def test_pyxs_works_on_it(path: str) -> None:
    with opened(path) as client:
        client.write(b"/a/b", b"value")
        assert client.read(b"/a/b") == b"value"
        assert client.list(b"/a") == [b"b"]
        assert client.get_perms(b"/a") == [b"n0"]
        client.set_perms(b"/a", [b"r0"])
        assert client.exists(b"/a/b")
        assert client.get_domain_path(3) == b"/local/domain/3"
        client.delete(b"/a")
        with pytest.raises(pyxs.PyXSError):
            client.read(b"/a/b")


def test_pyxs_transactions_conflict_and_commit(path: str) -> None:
    with opened(path) as one, opened(path) as other:
        one.write(b"/a", b"0")
        one.transaction()
        one.write(b"/b", one.read(b"/a"))
        other.write(b"/a", b"1")
        assert one.commit() is False
        one.transaction()
        one.write(b"/b", one.read(b"/a"))
        assert one.commit() is True
        assert other.read(b"/b") == b"1"


def test_pyxs_monitors_are_told_of_changes(path: str) -> None:
    with opened(path) as client, contextlib.closing(client.monitor()) as monitor:
        events: queue.Queue[bytes] = queue.Queue()
        monitor.watch(b"/a", b"token")
        waiting = iter(monitor.wait())

        def take(count: int) -> None:
            for _ in range(count):
                events.put(next(waiting).path)

        thread = threading.Thread(target=take, args=(3,))
        thread.start()
        assert events.get(timeout=20) == b"/a"
        client.write(b"/a/b", b"x")
        assert events.get(timeout=20) == b"/a/b"
        client.write(b"/a/c", b"x")
        assert events.get(timeout=20) == b"/a/c"
        thread.join(timeout=20)
