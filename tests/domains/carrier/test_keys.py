"""Keys, and whom a machine believes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from domains.carrier.keys import HEX_KEY, KeyProblem, authorized, key_of, known, pair, pair_of

ONE, TWO = "0" * 63 + "1", "ab" * 32


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "xenoscope").mkdir(parents=True)
    return tmp_path / "config" / "xenoscope"


def test_a_machine_has_one_pair_of_keys_whoever_asks_first(folders: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        pairs = set(threads.map(lambda _: pair_of("one"), range(8)))
    assert len(pairs) == 1
    (found,) = pairs
    assert pair(found.secret) == found
    assert HEX_KEY.fullmatch(found.public.hex())
    path = tmp_path / "state" / "xenoscope" / "keys" / "one"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["one"]
    assert pair_of("two") != found


def test_a_secret_key_that_others_can_write_is_not_used(folders: Path, tmp_path: Path) -> None:
    pair_of("one")
    path = tmp_path / "state" / "xenoscope" / "keys" / "one"
    path.chmod(0o660)
    with pytest.raises(KeyProblem, match="others can write"):
        pair_of("one")


def test_authorized_keys_are_lines_with_comments(folders: Path) -> None:
    assert list(authorized()) == []
    (folders / "authorized_keys").write_text(f"# friends\n\n{ONE} the first\n{TWO}\nnonsense\n")
    assert [key.hex() for key in authorized()] == [ONE, TWO]


def test_authorized_keys_that_others_can_write_let_nobody_in(folders: Path) -> None:
    path = folders / "authorized_keys"
    path.write_text(f"{ONE}\n")
    path.chmod(0o666)
    with pytest.raises(KeyProblem, match="others can write"):
        list(authorized())


def test_a_file_that_never_ends_is_no_file_of_keys(folders: Path) -> None:
    (folders / "authorized_keys").symlink_to("/dev/zero")
    with pytest.raises(KeyProblem):
        list(authorized())
    (folders / "authorized_keys").unlink()
    os.mkfifo(folders / "authorized_keys")
    with pytest.raises(KeyProblem):
        list(authorized())


def test_a_machine_is_known_by_its_place(folders: Path) -> None:
    with pytest.raises(KeyProblem, match="--key"):
        known("host:7800")
    (folders / "known_machines").write_text(f"host:7800 {TWO} the big one\n")
    assert known("host:7800").hex() == TWO
    with pytest.raises(KeyProblem):
        known("host:7801")


@pytest.mark.parametrize("text", ["", "12", "g" * 64, "0" * 65])
def test_what_is_no_key_is_told(text: str) -> None:
    with pytest.raises(KeyProblem, match="64 hexadecimal digits"):
        key_of(text)
