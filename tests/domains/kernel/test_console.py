"""A guest's console: what it prints arrives, in order and whole; what is typed is read in lines."""

import pytest

from domains.dom0.console.terminal import Viewer
from domains.kernel.console import HELD_MAX, OUT_SIZE
from domains.kernel.kernel import Kernel
from tests.domains.kernel.two_domains import TwoDomains
from tests.inprocess import InProcess


class Screen:
    """Somebody who looks at the console."""

    def __init__(self, two: TwoDomains) -> None:
        self.data = b""
        two.consoled.attach(two.terminal, Viewer(self.show, lambda reason: None))

    def show(self, data: bytes) -> bool:
        self.data += data
        return True


@pytest.fixture
def two(machine: InProcess) -> TwoDomains:
    return TwoDomains(machine)


@pytest.fixture
def guest(two: TwoDomains) -> Kernel:
    return two.boot()


def test_what_is_printed_arrives(two: TwoDomains, guest: Kernel) -> None:
    screen = Screen(two)
    print("hello,", "wörld", file=guest.console)
    two.run_dom0()
    assert screen.data == "hello, wörld\r\n".encode()


def test_more_than_the_ring_holds_arrives_in_order(two: TwoDomains, guest: Kernel) -> None:
    screen = Screen(two)
    text = "".join(f"{i}\n" for i in range(5 * OUT_SIZE // 4))
    guest.console.write(text)
    two.run_dom0()
    assert screen.data == text.replace("\n", "\r\n").encode()


def test_what_is_typed_is_read_in_lines(two: TwoDomains, guest: Kernel) -> None:
    two.terminal.type(b"first\rsec")
    assert guest.console.readline(1) == "first\n"
    assert guest.console.readline(0.01) == ""
    two.terminal.type(b"ond\r")
    assert guest.console.readline(1) == "second\n"


def test_output_that_nobody_reads_is_dropped_after_a_while(
    two: TwoDomains, guest: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("domains.kernel.console.FULL_RING_PATIENCE", 0.01)
    two.guest.gate.meanwhile.clear()
    assert guest.console.write("x" * 3 * OUT_SIZE) == 3 * OUT_SIZE
    assert guest.wait(lambda: True)


def test_what_a_handler_prints_into_a_full_ring_comes_later_in_order_and_it_does_not_wait(
    two: TwoDomains, guest: Kernel
) -> None:
    """Failed before: it waited for the daemon, and others' handlers ran below it."""
    two.guest.gate.meanwhile.clear()
    lines = [f"{i:06}\n" for i in range(3 * OUT_SIZE // 8)]
    order: list[str] = []

    def talkative() -> None:
        for line in lines:
            guest.console.write(line)
        order.append("talkative")

    guest.call_soon(talkative)
    guest.call_soon(lambda: order.append("another"))
    assert guest.wait(lambda: len(order) == 2, 1)
    assert order == ["talkative", "another"]
    screen = Screen(two)
    two.guest.gate.meanwhile.append(two.run_dom0)
    guest.console.write("the end\n")
    two.run_dom0()
    assert screen.data.decode() == ("".join(lines) + "the end\n").replace("\n", "\r\n")


def test_what_handlers_print_for_nobody_is_bounded(two: TwoDomains, guest: Kernel) -> None:
    two.guest.gate.meanwhile.clear()
    done: list[bool] = []

    def talkative() -> None:
        for _ in range(2 * HELD_MAX // 1024):
            guest.console.write("x" * 1024)
        done.append(True)

    guest.call_soon(talkative)
    assert guest.wait(lambda: bool(done), 1)
    assert len(guest.console._held) == HELD_MAX


def test_dom0_prints_on_the_hypervisors_console(two: TwoDomains) -> None:
    print("from Dom0", file=two.control.console)
    assert b"(d0) from Dom0" in two.machine.hv.log.read()
