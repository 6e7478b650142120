"""Disk specifications mean what they mean to xl: a table of what libxlutil makes of 210, of all forms there ever were.

Where xl takes a format or a script that there is not here, the specification is refused and says so.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from domains.dom0.toolstack.xlcfg.disk import FORMATS, SUPPORTED_FORMATS, parse_disk

TABLE = [
    line.split("\t")
    for line in (Path(__file__).with_name("disk.tsv")).read_text().splitlines()
    if not line.startswith("#")
]
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


def test_a_cd_rom_is_never_writable() -> None:
    for text in (
        "/x.iso,raw,hdc:cdrom,w",
        "/x.iso,,xvdc,rw,cdrom",
        "vdev=hdc,access=w,devtype=cdrom,target=/x",
    ):
        assert not parse_disk(text).writable
    assert parse_disk("/x.img,raw,xvda,w").writable
