"""Images of a fleet: sent once, whole or not at all, known by what is in them; and a domain that any host can read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from domains.xenctl.fleet.file import MADE
from domains.xenctl.fleet.portable import Files, Missing, planned_here, portable
from domains.xenctl.fleet.store import Refused, Store
from domains.xenctl.topology.check import load

CONTENT = b"a kernel " * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def test_a_file_that_came_whole_is_there_and_not_before(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.missing([DIGEST, "x"]) == [DIGEST, "x"]
    store.put(DIGEST, "vmlinuz", 0, CONTENT[:5000], last=False)
    assert store.missing([DIGEST]) == [DIGEST]
    store.put(DIGEST, "vmlinuz", 0, CONTENT[:5000], last=False)  # another sender
    store.put(DIGEST, "vmlinuz", 5000, CONTENT[5000:], last=True)
    store.put(DIGEST, "vmlinuz", 5000, CONTENT[5000:], last=True)  # the other one goes on
    assert store.missing([DIGEST]) == []
    assert (store.stored([DIGEST])[DIGEST] / "image").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "store").iterdir()] == [DIGEST]


def test_what_is_not_as_its_hash_says_is_not_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(Refused, match="vmlinuz arrived altered"):
        store.put(DIGEST, "vmlinuz", 0, b"b" + CONTENT[1:], last=True)
    with pytest.raises(Refused, match="a piece of vmlinuz is missing"):
        store.put(DIGEST, "vmlinuz", 10, CONTENT[10:], last=True)
    for digest in ("../../etc", DIGEST.upper(), DIGEST + "/x", ""):
        with pytest.raises(Refused, match="impossible hash"):
            store.put(digest, "vmlinuz", 0, CONTENT, last=True)
    store.put(DIGEST, "vmlinuz", 0, CONTENT[:10], last=False)
    store.close()
    assert list(tmp_path.iterdir()) == []


TOPOLOGY = """\
disks:
  shared: {size: 1MiB}
domains:
  guest:
    kernel: "python:./guest.py:Guest"
    memory: 8
    disks: [{file: read.img, access: ro}, {file: written.img}, {disk: shared, access: ro}, {copy: read.img}]
  binary: {kernel: ./vmlinuz, ramdisk: vmlinuz, memory: 8}
  module: {kernel: "python:domains.guests.idle:Idle", memory: 8}
"""


def test_a_domain_is_the_same_on_a_host_with_other_paths(tmp_path: Path) -> None:
    for name in ("guest.py", "read.img", "written.img", "vmlinuz"):
        (tmp_path / name).write_bytes(name.encode() * 512)
    (tmp_path / "topology.yaml").write_text(TOPOLOGY)
    planned = load(tmp_path / "topology.yaml").plan(MADE).domains
    files = Files(tmp_path)
    domain = portable(planned["guest"], files)
    assert sorted(domain.files.values()) == ["guest.py", "read.img"]
    assert domain.present == [str(tmp_path / "written.img")]
    stored = {digest: Path("/store") / digest for digest in domain.files}
    plan = planned_here(domain, stored, Path("/made"))
    here = plan.domains["guest"]
    kernel, disks = here.settings["kernel"], here.settings["disk"]
    assert isinstance(kernel, str)
    assert kernel.startswith("python:/store/")
    assert kernel.endswith("/image.py:Guest")
    assert isinstance(disks, list)
    targets = [str(disk).partition("target=")[2] for disk in disks]
    assert targets[0].startswith("/store/")
    assert targets[1:] == [str(tmp_path / "written.img"), "/made/shared.img", "/made/guest.3.img"]
    assert [(str(image.path), image.copy_of is not None) for image in here.images] == [
        ("/made/shared.img", False),
        ("/made/guest.3.img", True),
    ]
    binary = portable(planned["binary"], files)
    assert binary.settings["kernel"] == binary.settings["ramdisk"]
    assert portable(planned["module"], files).files == {}


def test_what_is_missing_on_a_host_is_told(tmp_path: Path) -> None:
    test_a_domain_is_the_same_on_a_host_with_other_paths(tmp_path)
    planned = load(tmp_path / "topology.yaml").plan(MADE).domains
    domain = portable(planned["guest"], Files(tmp_path))
    with pytest.raises(Missing, match=r"image \S+ is not on this host"):
        planned_here(domain, {}, Path("/made"))
    (tmp_path / "written.img").unlink()
    with pytest.raises(Missing, match="a disk that is written is not sent: put it on shared storage"):
        planned_here(domain, dict.fromkeys(domain.files, tmp_path), Path("/made"))
