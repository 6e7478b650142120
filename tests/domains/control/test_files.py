"""A file that a user names may never end: what reads it takes as much as it accepts, and one character more."""

from pathlib import Path

import pytest

from domains.control.files import read_at_most
from domains.dom0.toolstack.xlcfg.load import load
from domains.dom0.toolstack.xlcfg.syntax import ConfigError


def test_of_an_endless_file_no_more_is_read_than_is_accepted() -> None:
    assert read_at_most(Path("/dev/zero"), 1000) == "\0" * 1001


def test_a_file_that_is_short_enough_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("ä" * 10)
    assert read_at_most(tmp_path / "file", 10) == "ä" * 10


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a\xff")
    assert read_at_most(tmp_path / "file", 10, errors="replace") == "a\ufffd"
    with pytest.raises(UnicodeDecodeError):
        read_at_most(tmp_path / "file", 10)


def test_ends_of_lines_are_read_as_they_are(tmp_path: Path) -> None:
    """CR LF was made LF on the way, so that a file was taken which xl refuses (libxlu_cfg_l.l knows no CR)."""
    (tmp_path / "a.cfg").write_bytes(b"name = 'a'\r\nkernel = 'k'\n")
    with pytest.raises(ConfigError, match=r"a\.cfg:1:11: the line ends in CR LF"):
        load(tmp_path / "a.cfg")


def test_an_endless_description_is_refused_as_too_long() -> None:
    with pytest.raises(ConfigError, match="longer than"):
        load(Path("/dev/zero"))
