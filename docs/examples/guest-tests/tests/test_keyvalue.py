"""The fixtures come from Xenoscope's plugin, which pytest finds by itself: there is nothing to import."""

import re

import pytest

KERNEL = "python:keyvalue:KeyValue"  # or the path of an ELF file or a bzImage, relative to this file


@pytest.fixture
def guest(xen_domain):
    """A guest that is ready. It ends with the test."""
    made = xen_domain(KERNEL, memory=16, cmdline="tester")
    made.expect("ready, tester")
    return made


def test_it_gives_back_what_it_was_told(guest):
    guest.sendline("set colour blue")
    guest.expect("colour is set")
    guest.sendline("get colour")
    assert guest.expect(re.compile(r"colour is (\w+)\n"))[1] == "blue"


def test_what_it_was_told_stands_in_xenstore(guest):
    guest.sendline("set colour green")
    assert guest.store.wait_for("data/colour", "green")
    guest.store["data/colour"] = "red"
    guest.sendline("get colour")
    guest.expect("colour is red")


def test_it_powers_off_when_it_is_told_to(guest):
    guest.sendline("quit")
    end = guest.wait()
    assert (end.reason, end.exit_code) == ("poweroff", 0)


def test_nonsense_is_its_end(xen_domain):
    guest = xen_domain(KERNEL, memory=16, may_end="crash")  # without may_end the test would fail at once
    guest.sendline("frobnicate")
    guest.expect("what is frobnicate?")
    assert guest.wait().exit_code == 3


def test_two_guests_keep_their_own_values(guest, xen_domain):
    other = xen_domain(KERNEL, memory=16, name="other")
    guest.sendline("set colour blue")
    guest.expect("colour is set")
    other.sendline("get colour")
    other.expect("colour is not set")


def test_a_client_gets_the_page_of_each_server(xen_topology):
    shop = xen_topology("shop.yaml")
    states = {one.name: one.state for one in shop.status()}
    assert states == {"web-1": "ready", "web-2": "ready", "customer": "done"}
    shop["web-1"].shutdown()
    shop["web-1"].expect("requests answered")
    assert shop["web-1"].wait().reason == "poweroff"
