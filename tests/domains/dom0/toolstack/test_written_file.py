"""A file that Dom0 writes is there when it is whole, and nothing before."""

import os
from pathlib import Path
from typing import cast

import pytest

from domains.dom0.toolstack.written_file import WrittenFile
from domains.kernel.kernel import Kernel


def begun(path: Path) -> WrittenFile:
    """Of which a part is written."""
    file = WrittenFile(
        cast(Kernel, None), str(path), None
    )  # the kernel is for what a thread does, and here is none
    file.open()
    file.append([b"a part"])
    return file


def test_until_it_is_whole_it_has_no_name_that_a_killed_dom0_would_leave(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    file = begun(path)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"
    file.append([b" and the rest"])
    file.finish()
    file.close()
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("file", b"a part and the rest")]
    assert path.stat().st_mode & 0o777 == 0o600
    begun(tmp_path / "other").close()
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_file_system_without_nameless_files_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)  # a folder cannot be opened for writing
    file = begun(tmp_path / "file")
    assert [one.suffix for one in tmp_path.iterdir()] == [".part"]
    file.finish()
    file.close()
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("file", b"a part")]
    begun(tmp_path / "other").close()
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
