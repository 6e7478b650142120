"""A small guest of ours suspends, is saved and restored, in both widths; what cannot be saved goes on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from domains.control.address import MachineAddress
from domains.control.client import ControlClient
from domains.control.domain_operations import Restore, Save
from domains.control.operations import Info, Shutdown, XenstoreLs
from domains.control.protocol import ControlError
from hypervisor.public.io.xs_wire import XS_READ
from tests.domains.dom0.store_socket import StoreSocket
from tests.guests.compiled import HERE, NEEDS, can_compile, compile_guest
from tests.guests.test_saved_files import stands_still, suspended
from tests.machines import Machine, wait_until

pytestmark = [
    pytest.mark.needs_headers,
    pytest.mark.skipif(not can_compile(), reason=NEEDS),
]


@pytest.mark.parametrize("bits", [64, 32])
def test_a_guest_finds_all_as_it_left_it(clean_machine: Machine, tmp_path: Path, bits: int) -> None:
    """Its memory, its FPU, its debug registers, its clock; its rings and its table of frames are new."""
    machine = clean_machine
    before = len(machine.xenctl("dmesg").stdout)

    def log() -> str:
        return machine.xenctl("dmesg").stdout[before:]

    suspended(machine, tmp_path, bits)
    saved = tmp_path / "saved"
    for options in (("-c",), ("-c",), ("-p",), ()):
        cancelled = log().count("cancelled")
        done = machine.xenctl("save", *options, "suspend", saved)
        assert done.returncode == 0, done.stderr
        assert saved.stat().st_mode & 0o777 == 0o600
        if options == ("-p",):
            assert "p" in machine.domain("suspend")["state"]
            assert machine.xenctl("unpause", "suspend").returncode == 0
        if options:
            wait_until(lambda n=cancelled: log().count("cancelled") == n + 1, 40, "the cancelled suspend")  # type: ignore[misc]
            stands_still(machine)
    assert machine.is_gone("suspend")
    done = machine.xenctl("restore", "-p", saved)
    assert done.returncode == 0, done.stderr
    assert "SUCCESS" not in log()
    assert machine.xenctl("unpause", "suspend").returncode == 0
    wait_until(lambda: machine.is_gone("suspend"), 40, "the guest's end")
    assert "SUCCESS" in log(), log()


def test_what_cannot_be_saved_goes_on(clean_machine: Machine, tmp_path: Path) -> None:
    """A guest that takes no notice, one that is paused, one in Python, none at all; and files that cannot be written."""
    machine = clean_machine
    image = compile_guest(HERE / "nmi.c", tmp_path / "nmi")
    assert machine.create(tmp_path, f'name = "deaf"\nkernel = "{image}"\nmemory = 4\n').returncode == 0
    idle = 'name = "idle"\nkernel = "python:domains.guests.idle:Idle"\nmemory = 8\n'
    assert machine.create(tmp_path, idle).returncode == 0
    (tmp_path / "there").write_text("is kept")

    def save(domain: str, *options: str, to: Path = tmp_path / "there") -> str:
        done = machine.xenctl("save", *options, domain, to)
        assert done.returncode != 0
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr

    assert "did not answer the request to suspend within 0.2 s" in save("deaf", "-t", "0.2")
    state = machine.ask(XenstoreLs(f"/local/domain/{machine.domain('deaf')['domid']}/control/shutdown"))
    assert state[0]["value"] in (b"", "")
    assert "a guest in Python" in save("idle")
    assert machine.xenctl("pause", "deaf").returncode == 0
    assert "is paused, and cannot suspend" in save("deaf")
    assert machine.xenctl("unpause", "deaf").returncode == 0
    assert "there is no domain" in save("nobody")
    assert "that would end or stop Dom0" in save("0")
    assert "cannot write" in save("deaf", to=tmp_path / "no" / "folder")
    assert (tmp_path / "there").read_text() == "is kept"
    assert sorted(path.name for path in tmp_path.glob("*.part")) == []
    assert {"b", "r"} & set(machine.domain("deaf")["state"])
    for name in ("deaf", "idle"):
        machine.destroy(name)


def test_a_domain_is_restored_once(clean_machine: Machine, tmp_path: Path) -> None:
    """Its name and its uuid are its own; with another description it is another domain."""
    machine, file = clean_machine, tmp_path / "file"
    suspended(machine, tmp_path, 64)
    assert machine.xenctl("save", "suspend", file).returncode == 0
    for options in (("-e",), ("-V",)):
        done = machine.xenctl("restore", *options, file)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert machine.xenctl("restore", "-p", file).returncode == 0
    assert "has the uuid" in machine.xenctl("restore", file).stderr
    (tmp_path / "second.cfg").write_text('name = "second"\nkernel = "/none"\nmemory = 4\nmaxvcpus = 2\n')
    done = machine.xenctl("restore", "-p", tmp_path / "second.cfg", file)
    assert done.returncode == 0, done.stderr
    assert sorted(machine.domains()) == ["Domain-0", "second", "suspend"]
    (tmp_path / "small.cfg").write_text('name = "small"\nkernel = "/none"\nmemory = 2\nmaxvcpus = 2\n')
    done = machine.xenctl("restore", tmp_path / "small.cfg", file)
    assert done.returncode == 1
    assert "the domain gets no more memory" in done.stderr
    (tmp_path / "python.cfg").write_text(
        'name = "python"\nkernel = "python:domains.guests.idle:Idle"\nmemory = 4\n'
    )
    done = machine.xenctl("restore", tmp_path / "python.cfg", file)
    assert "is one of a guest in Python: none is ever saved" in done.stderr
    (tmp_path / "pvh.cfg").write_text('name = "other"\nkernel = "/none"\nmemory = 4\ntype = "pvh"\n')
    done = machine.xenctl("restore", tmp_path / "pvh.cfg", file)
    assert "a domain of type pv, and described as one of pvh" in done.stderr
    for name in ("suspend", "second"):
        machine.destroy(name)


def test_a_file_has_the_description_that_it_is_to_have(clean_machine: Machine, tmp_path: Path) -> None:
    machine = clean_machine
    image = compile_guest(HERE / "suspend.c", tmp_path / "suspend")
    text = f'name = "suspend"\nkernel = "{image}"\nmemory = 4\nvcpus = 2\n'
    (tmp_path / "named.cfg").write_text(text.replace("suspend", "named", 1))
    assert machine.create(tmp_path, text).returncode == 0
    stands_still(machine)
    assert machine.xenctl("save", "-c", "suspend", tmp_path / "file", tmp_path / "named.cfg").returncode == 0
    stands_still(machine)
    machine.destroy("suspend")
    assert machine.xenctl("restore", "-p", tmp_path / "file").returncode == 0
    assert sorted(machine.domains()) == ["Domain-0", "named"]
    machine.destroy("named")


def test_a_guest_that_suspends_too_late_goes_on(clean_machine: Machine, tmp_path: Path) -> None:
    """It takes the request, and suspends when nobody waits any more: whoever takes its request here is in its place."""
    machine = clean_machine
    image = compile_guest(HERE / "suspend.c", tmp_path / "late")
    text = f'name = "late"\nkernel = "{image}"\nmemory = 4\nextra = "late"\n'
    before = len(machine.xenctl("dmesg").stdout)
    assert machine.create(tmp_path, text).returncode == 0
    wait_until(lambda: "waits" in machine.xenctl("dmesg").stdout[before:])
    node = f"/local/domain/{machine.domain('late')['domid']}/control/shutdown".encode()
    with (
        ThreadPoolExecutor() as pool,
        StoreSocket(machine.xenstored_path) as store,
    ):
        saving = pool.submit(machine.xenctl, "save", "-t", "1", "late", tmp_path / "file")
        wait_until(lambda: store.ask(XS_READ, node) == b"suspend")
        store.write(node, b"")
        done = saving.result()
    assert (done.returncode, len(done.stderr.splitlines())) == (4, 1), done.stderr
    assert "has taken the request to suspend, but did not within 1 s" in done.stderr
    assert not (tmp_path / "file").exists()
    assert machine.xenctl("trigger", "late", "nmi").returncode == 0
    wait_until(lambda: machine.is_gone("late"), 40, "the guest's end")
    assert "SUCCESS" in machine.xenctl("dmesg").stdout[before:]


def test_dom0_answers_others_while_it_saves_and_restores(clean_machine: Machine, tmp_path: Path) -> None:
    machine, file = clean_machine, str(tmp_path / "file")
    suspended(machine, tmp_path, 64, memory=128)
    with ControlClient(MachineAddress.in_folder(machine.folder), timeout=60) as client:
        answers_another_first(client, Save("suspend", file, checkpoint=True))
        stands_still(machine)
        answers_another_first(client, Save("suspend", file))
        answers_another_first(client, Restore(file, paused=True))
    machine.destroy("suspend")


def test_a_domain_that_is_being_saved_is_neither_saved_again_nor_said_to_have_ended(
    clean_machine: Machine, tmp_path: Path
) -> None:
    """However short after the other the requests come: all are posted at once."""
    machine, files = clean_machine, [str(tmp_path / "one"), str(tmp_path / "two")]
    suspended(machine, tmp_path, 64, memory=128)  # so that the first one takes long enough
    with ControlClient(MachineAddress.in_folder(machine.folder), timeout=60) as client:
        first, second = (client.post(Save("suspend", file)) for file in files)
        shutdown = client.post(Shutdown("suspend"))
        replies = {reply.id: reply for reply in (client.receive(60) for _ in range(3)) if reply is not None}
    replies[first].result()
    with pytest.raises(ControlError, match="domain 'suspend' is being saved already"):
        replies[second].result()
    with pytest.raises(ControlError, match="is being saved or moved; try again when that is over"):
        replies[shutdown].result()
    assert machine.is_gone("suspend")
    assert not Path(files[1]).exists()


def answers_another_first(client: ControlClient, long: Save | Restore) -> None:
    slow, quick = client.post(long), client.post(Info())
    replies = [client.receive(60), client.receive(60)]
    for reply, wanted in zip(replies, (quick, slow), strict=True):
        assert reply is not None
        assert reply.id == wanted
        reply.result()
