"""Disk specifications mean what they mean to xl: tables of what libxlutil makes of some 500, of all forms there ever were.

disk.tsv says what it takes, disk_reasons.tsv also why it refuses; both were written by the library of Debian's
libxenmisc4.17, 90,000 more specifications drawn at random were compared with it when the grammar was written. Where xl takes
a format or a script that there is not here, the specification is refused and says so.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.dom0.toolstack.xlcfg.disk import FORMATS, SUPPORTED_FORMATS, parse_disk
from domains.dom0.toolstack.xlcfg.disk_syntax import parse_spec


def rows(name: str) -> list[list[str]]:
    lines = Path(__file__).with_name(name).read_text().splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")]


TABLE = rows("disk.tsv")
NOT_HERE = set(FORMATS) - set(SUPPORTED_FORMATS)


def ours(text: str) -> str:
    """What we make of it, as the table writes it; or why it is refused."""
    try:
        disk = parse_disk(text)
    except ValueError as error:
        return str(error)
    target = (
        disk.target.removeprefix("/dev/") if "/dev/" not in text.replace("/dev/xvda", "") else disk.target
    )
    bits = f"{int(disk.writable)}|{int(disk.cdrom)}"
    return f"{target}|{disk.format}|{disk.vdev}|{bits}|{disk.backend or ''}|"


@pytest.mark.parametrize(("text", "theirs"), TABLE)
def test_a_disk_is_what_xl_makes_of_it_or_is_refused_with_a_reason(text: str, theirs: str) -> None:
    found = ours(text)
    if theirs == "REFUSED":
        assert "|" not in found
        return
    path, disk_format, vdev, *rest, script = theirs.split("|")
    if script or disk_format in NOT_HERE:
        assert "not supported" in found
    elif ":" in vdev:
        assert "no virtual device" in found
    else:
        assert found == "|".join((path, disk_format, vdev.removeprefix("/dev/"), *rest, script))


HINT = re.compile(r" \([^()]*\)(?=;|$)")
"""What we add to a reason: what to do."""


def syntax(text: str) -> str:
    """What the grammar makes of a specification, as disk_reasons.tsv writes it, without what to do."""
    try:
        spec = parse_spec(text)
    except ValueError as error:
        return f"REFUSED: {HINT.sub('', str(error))}"
    target = "(none)" if spec.target is None else spec.target
    bits = f"{int(spec.writable)}|{int(spec.cdrom)}"
    return f"{target}|{spec.format}|{spec.vdev}|{bits}|{spec.backend or ''}|{spec.script or ''}"


@pytest.mark.parametrize(("text", "theirs"), rows("disk_reasons.tsv"))
def test_the_grammar_gives_libxlutils_answer_and_its_reason(text: str, theirs: str) -> None:
    text, theirs = (cell.replace("\\t", "\t").replace("\\n", "\n") for cell in (text, theirs))
    assert syntax(text) == theirs


@given(st.text(max_size=40))
def test_any_text_is_a_disk_or_refused_in_one_line(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_disk(text)


@pytest.mark.parametrize("piece", ["a,", " a,", "x=y,", "phy:", "cdrom,", "=,"])
def test_a_specification_of_any_length_is_read_at_once(piece: str) -> None:
    """The time of reading grows with the square of the length, so the length is bounded."""
    with pytest.raises(ValueError, match="more than"):
        parse_disk(piece * 100_000)


def test_a_cd_rom_is_never_writable() -> None:
    for text in (
        "/x.iso,raw,hdc:cdrom,w",
        "/x.iso,,xvdc,rw,cdrom",
        "vdev=hdc,access=w,devtype=cdrom,target=/x",
    ):
        assert not parse_disk(text).writable
    assert parse_disk("/x.img,raw,xvda,w").writable
