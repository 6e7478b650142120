"""The engine itself: a library that it does not know is refused at once, and a domain's many instances do not mix."""

import pytest

from domains.cpu.x86.emulator import cpu_state, unicorn_library
from domains.cpu.x86.emulator.unicorn_library import UnsupportedLibrary
from domains.cpu.x86.pv.pit import COUNT, HZ, MODE, SPEAKER, Pit
from domains.cpu.x86.registers import RBX
from tests.domains.cpu.x86.bench import Bench


def test_another_version_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unicorn_library, "INSTALLED", "2.1.3")
    with pytest.raises(UnsupportedLibrary, match=r"^unicorn 2\.1\.3 is installed, 2\.1\.4 is needed$"):
        Bench()


def test_a_library_without_a_needed_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unicorn_library, "EXPORTS", (*unicorn_library.EXPORTS, "no_such_function"))
    with pytest.raises(UnsupportedLibrary, match="does not export no_such_function"):
        Bench()


def test_a_state_structure_that_lies_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_state, "ENV_OFFSET", cpu_state.ENV_OFFSET + 8)
    with pytest.raises(UnsupportedLibrary, match="was not found"):
        Bench()


@pytest.mark.parametrize(("offset", "fact"), [("OLD_EXCEPTION", "old_exception"), ("IS_INT", "INT n")])
def test_a_field_that_lies_elsewhere_is_refused(
    monkeypatch: pytest.MonkeyPatch, offset: str, fact: str
) -> None:
    from domains.cpu.x86.emulator import selfcheck

    monkeypatch.setattr(selfcheck, offset, getattr(cpu_state, offset) + 40)
    with pytest.raises(UnsupportedLibrary, match=fact):
        Bench()


def test_two_engines_in_one_process_keep_their_registers() -> None:
    first, second = Bench(), Bench()
    first.run("start: mov $1, %ebx; hypercall 12; done")
    second.run("start: mov $2, %ebx; hypercall 12; done")
    assert (first.q[RBX], second.q[RBX]) == (1, 2)


def test_the_timer_chip_counts_down_and_its_output_rises() -> None:
    now = 0
    pit = Pit(lambda: now)
    pit.write(MODE, 0xB0)
    pit.write(COUNT, 0xFF)
    pit.write(COUNT, 0xFF)
    now = 10_000_000
    assert pit.read(COUNT) | pit.read(COUNT) << 8 == 0xFFFF - HZ // 100
    assert not pit.read(SPEAKER) & 0x20
    now = 60_000_000
    assert pit.read(SPEAKER) & 0x20
