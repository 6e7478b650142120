"""PVH guests on a real machine: 32-bit at their first instruction, with page tables of their own above the P2M."""

from pathlib import Path

import pytest

from tests.guests.compiled import HERE, NEEDS, can_compile, compile_pvh_guest
from tests.machines import Machine, wait_until

needs_compiler = pytest.mark.skipif(not can_compile(), reason=NEEDS)


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_pvh("pvh_hello", tmp_path_factory.mktemp("pvh"))


def compile_pvh(name: str, folder: Path) -> Path:
    return compile_pvh_guest(folder / name, HERE / f"{name}.S")


nested_and_shadow = pytest.mark.parametrize("hap", [1, 0], ids=["nested", "shadow"])


@needs_compiler
@pytest.mark.needs_headers
@nested_and_shadow
def test_a_pvh_guest_prints_and_powers_off(
    clean_machine: Machine, tmp_path: Path, hello: Path, hap: int
) -> None:
    machine = clean_machine
    config = f'name = "hello"\ntype = "pvh"\nhap = {hap}\nkernel = "{hello}"\nmemory = 16\n'
    done = machine.create(tmp_path, config)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: machine.is_gone("hello"), 40, "the guest's end")
    assert "SUCCESS" in machine.xenctl("dmesg").stdout


@needs_compiler
@pytest.mark.needs_headers
def test_all_threads_of_its_process_are_confined(clean_machine: Machine, tmp_path: Path, hello: Path) -> None:
    """What that means: tests/domains/cpu/test_confinement.py."""
    machine = clean_machine
    config = f'name = "kept"\ntype = "pvh"\nkernel = "{hello}"\nmemory = 16\non_poweroff = "preserve"\n'
    done = machine.create(tmp_path, config)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: "s" in machine.domain("kept")["state"], 40, "the guest's end")
    tasks = list(Path(f"/proc/{machine.domain('kept')['pid']}/task").iterdir())
    assert tasks
    for task in tasks:
        assert "\nSeccomp:\t2\n" in (task / "status").read_text()
    assert machine.xenctl("destroy", "kept").returncode == 0


@needs_compiler
@pytest.mark.needs_headers
@nested_and_shadow
def test_a_triple_fault_ends_a_domain_as_a_reboot_does(
    clean_machine: Machine, tmp_path: Path, hap: int
) -> None:
    machine, image = clean_machine, compile_pvh("pvh_triple_fault", tmp_path)
    config = f'name = "thrice"\nhap = {hap}\ntype = "pvh"\nkernel = "{image}"\nmemory = 16\non_reboot = "preserve"\n'
    done = machine.create(tmp_path, config)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: "s" in machine.domain("thrice")["state"], 40, "the guest's end")
    assert "triple fault, shutdown code 1" in machine.xenctl("dmesg").stdout
    assert machine.xenctl("destroy", "thrice").returncode == 0
