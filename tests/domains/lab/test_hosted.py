"""hosted: what each fault leaves, exact. Negative control: a driver domain that nobody replaces leaves its guest waiting, and
the last claim fails.
"""

from functools import cache

from domains.lab.experiments.hosted import DEVICE, Outcome, claims, driver_domain, look
from domains.lab.systems.driver_domain import XenWithDriverDomain


@cache
def found() -> dict[str, Outcome]:
    return look()


def test_what_is_left() -> None:
    assert {name: (one.guest, one.written, one.others, one.unanswered) for name, one in found().items()} == {
        "bare hardware: the kernel's driver": ("ends with it", False, "there are none", 0),
        "ESX: the monitor's": ("ends with it", False, "end with it", 0),
        "Workstation: the host's process": ("ends with it", False, "live", 0),
        "Xen: in Dom0": ("ends with it", False, "end with it", 1),
        "Xen: a driver domain, left as it is": ("waits", False, "live", 1),
        "Xen: a driver domain, replaced": ("ends as it should", True, "live", 0),
    }
    assert "SIGSEGV" in found()["Workstation: the host's process"].told


def test_replaced_it_is_as_if_nothing_had_been() -> None:
    undisturbed = driver_domain(replaces=True, broken=-1)
    assert found()["Xen: a driver domain, replaced"] == undisturbed
    assert undisturbed.result is not None


def test_the_new_back_ends_are_in_another_domain() -> None:
    system = XenWithDriverDomain(broken=13)
    first = system.driver.domain
    system.run([DEVICE])
    assert system.made == 2
    assert first.domid not in system.xen.hv.domains
    assert system.devices.sectors[13][:2] == b"\x34\x12"
    assert system.devices.packets == []
    system.close()


def test_left_as_it_is() -> None:
    loose = found() | {"Xen: a driver domain, replaced": found()["Xen: a driver domain, left as it is"]}
    assert [claim.holds for claim in claims(loose)] == [True, True, True, True, True, False]
