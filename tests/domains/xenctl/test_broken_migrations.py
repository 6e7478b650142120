"""Migrations that break off, and those that connect and are no machines.

Control: with a source that goes on after GO when the connection is lost,
`test_a_source_in_doubt_waits_for_the_targets_word` fails.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from domains.carrier.frames import HEAD_SIZE, PIECE, Word, frame, parse_head
from domains.control.protocol import ControlError
from domains.dom0.toolstack.migrating.links import SOCKET
from domains.dom0.toolstack.migrating.offer import Question, body_of
from tests.domains.xenctl.wanderers import (
    NAME,
    create,
    is_running,
    kill,
    migrate,
    send,
    start_again,
    ticks,
    under_way,
    works_on,
)
from tests.guests.compiled import NEEDS, can_compile
from tests.machines import XENCTL, Machine, wait_until

pytestmark = [
    pytest.mark.skipif(not can_compile(), reason=NEEDS),
    pytest.mark.timeout(300),
]

Two = tuple[Machine, Machine]


class Peer:
    """Somebody who connects with a machine's folder and says what he likes."""

    def __init__(self, machine: Machine) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(str(machine.folder / SOCKET))

    def hears(self) -> tuple[Word, bytes] | None:
        """The next word that is no PING; None at the end."""
        while True:
            head = self._read(HEAD_SIZE)
            if head is None:
                return None
            word, size = parse_head(head)
            body = self._read(size)
            if word is not Word.PING:
                return word, body or b""

    def _read(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            try:
                part = self.socket.recv(size - len(data))
            except ConnectionResetError:
                part = b""
            if not part:
                return None
            data += part
        return data


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        os.urandom(1 << 16),
        struct.pack("<BI", Word.OFFER, 0xFFFF_FFFF),
        struct.pack("<BI", Word.DATA, PIECE + 1),
        frame(Word.GO),
        frame(Word.LOST, b"\xff" * 100),
        frame(Word.OFFER, b"\xc1"),
        frame(Word.OFFER, b"\x80"),
        frame(Word.ASK, b"\x81\xa2id\xa1x"),
        b"",
    ],
)
def test_one_that_is_no_machine_is_cut_off_and_disturbs_nobody(clean_machine: Machine, said: bytes) -> None:
    peer = Peer(clean_machine)
    with peer.socket:
        peer.socket.sendall(said)
        peer.socket.shutdown(socket.SHUT_WR)
        last = None
        while (heard := peer.hears()) is not None:
            last = heard
        assert last is None or last[0] is Word.REFUSE
    assert clean_machine.xenctl("list").returncode == 0


def test_a_question_about_an_unknown_migration_is_answered_with_no(clean_machine: Machine) -> None:
    peer = Peer(clean_machine)
    with peer.socket:
        peer.socket.sendall(frame(Word.ASK, body_of(Question("ab" * 16))))
        heard = peer.hears()
        assert heard is not None
        assert heard[0] is Word.DROPPED


def test_more_connections_than_can_be_are_cut_off(clean_machine: Machine) -> None:
    peers = []
    with suppress(OSError):
        for _ in range(40):
            peers.append(Peer(clean_machine))
    assert clean_machine.xenctl("list").returncode == 0
    for peer in peers:
        peer.socket.close()
    peer = Peer(clean_machine)
    with peer.socket:
        peer.socket.sendall(frame(Word.ASK, body_of(Question("ab" * 16))))
        assert peer.hears() is not None


def slowly(source: Machine, target: Machine) -> subprocess.Popen[str]:
    """A migration that takes some seconds."""
    return subprocess.Popen(
        [*XENCTL, "migrate", NAME, target.name, "--bandwidth", "2", "--progress"],
        env=source.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_exactly_one_runs_when_the_target_is_killed(two: Two, tmp_path: Path) -> None:
    here, there = two
    create(here, tmp_path)
    with slowly(here, there) as moving:
        wait_until(lambda: f"{NAME}--incoming" in there.domains(), 30, "its arrival")
        kill(there)
        _, errors = moving.communicate(timeout=60)
    assert moving.returncode != 0
    assert "goes on here" in errors
    works_on(here, ticks(here))
    start_again(there)
    assert migrate(here, there).returncode == 0
    works_on(there, 0)


def test_a_target_lets_go_when_the_source_is_killed(two: Two, tmp_path: Path) -> None:
    here, there = two
    create(here, tmp_path)
    with slowly(here, there) as moving:
        wait_until(lambda: f"{NAME}--incoming" in there.domains(), 30, "its arrival")
        kill(here)
        moving.communicate(timeout=60)
    wait_until(there.census_is_clean, 60, "a clean census")
    start_again(here)


def test_who_asked_for_it_may_go_away(two: Two, tmp_path: Path) -> None:
    here, there = two
    create(here, tmp_path)
    with slowly(here, there) as moving:
        wait_until(lambda: f"{NAME}--incoming" in there.domains(), 30, "its arrival")
        moving.kill()
    wait_until(lambda: under_way(here) == under_way(there) == [], 60, "the end of the migration")
    assert is_running(here) != is_running(there)


def test_a_domain_that_is_destroyed_on_its_way_is_nowhere(two: Two, tmp_path: Path) -> None:
    here, there = two
    create(here, tmp_path)
    with slowly(here, there) as moving:
        wait_until(lambda: f"{NAME}--incoming" in there.domains(), 30, "its arrival")
        here.destroy(NAME)
        moving.communicate(timeout=60)
    assert moving.returncode != 0
    wait_until(here.census_is_clean, 30, "a clean census")
    wait_until(there.census_is_clean, 30, "a clean census")


class FalseTarget(threading.Thread):
    """A machine's folder with somebody in it who takes all, says READY, and then what `answers` has for each connection."""

    def __init__(self, folder: Path, answers: list[list[Word]]) -> None:
        super().__init__(daemon=True)
        folder.mkdir(mode=0o700, parents=True)
        self.heard: list[Word] = []
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(folder / SOCKET))
        self._server.listen(4)
        self._answers = answers
        self.start()

    def run(self) -> None:
        for answers in self._answers:
            peer, _ = self._server.accept()
            with peer:
                peer.settimeout(60)
                self._converse(peer, list(answers))

    def _converse(self, peer: socket.socket, answers: list[Word]) -> None:
        data, ends = b"", 0
        while True:
            while len(data) >= HEAD_SIZE:
                word, size = parse_head(data[:HEAD_SIZE])
                if len(data) < HEAD_SIZE + size:
                    break
                body, data = data[HEAD_SIZE : HEAD_SIZE + size], data[HEAD_SIZE + size :]
                if word is Word.PING:
                    continue
                if word is not Word.DATA:
                    self.heard.append(word)
                if word is Word.OFFER:
                    peer.sendall(frame(Word.ACCEPT, b"\x80"))
                elif word is Word.DATA and body == bytes(8):  # a record END: libxc's, then libxl's
                    ends += 1
                    if ends == 2:
                        peer.sendall(frame(Word.READY))
                elif word in (Word.GO, Word.ASK):
                    if not answers:
                        return
                    answer = answers.pop(0)
                    peer.sendall(frame(answer, b"\x80" if answer is Word.RAN else b"\x81\xa3why\xa2no"))
            part = peer.recv(1 << 20)
            if not part:
                return
            data += part


def test_a_source_in_doubt_waits_for_the_targets_word(clean_machine: Machine, tmp_path: Path) -> None:
    """GO is said, and the connection breaks: the domain stands still until the target says that it does not run there."""
    create(clean_machine, tmp_path)
    count = ticks(clean_machine)
    target = FalseTarget(tmp_path / "false", [[], [], [Word.DROPPED]])
    with pytest.raises(ControlError, match="goes on here"):
        send(clean_machine, tmp_path / "false")
    assert target.heard == [Word.OFFER, Word.GO, Word.ASK, Word.ASK]
    works_on(clean_machine, count)
    clean_machine.end_domains()


def test_a_source_whose_target_has_run_the_domain_ends_its_own(
    clean_machine: Machine, tmp_path: Path
) -> None:
    create(clean_machine, tmp_path)
    target = FalseTarget(tmp_path / "false", [[], [Word.RAN]])
    send(clean_machine, tmp_path / "false")
    wait_until(lambda: Word.GONE in target.heard, 10, "GONE")
    assert clean_machine.is_gone(NAME)


def test_the_user_decides_where_the_target_never_answers(clean_machine: Machine, tmp_path: Path) -> None:
    create(clean_machine, tmp_path)
    count = ticks(clean_machine)
    FalseTarget(tmp_path / "false", [[]])
    errors: list[str] = []

    def ask() -> None:
        try:
            send(clean_machine, tmp_path / "false")
        except ControlError as error:
            errors.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    away = f"{NAME}--migratedaway"
    wait_until(lambda: away in clean_machine.domains(), 30, "its doubt")
    assert not is_running(clean_machine, away)
    assert clean_machine.xenctl("resume", away).returncode == 0
    asking.join(60)
    assert "goes on here" in errors[0]
    works_on(clean_machine, count)
    clean_machine.end_domains()
