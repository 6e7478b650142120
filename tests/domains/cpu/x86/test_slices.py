"""The end of a slice: a signal stops guest code between two instructions, at once, and nothing is done twice."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.registers import RBX
from tests.domains.cpu.x86.bench import DATA, Bench

LOOPS = 2_000_000


@pytest.fixture
def heeding(bench: Bench) -> Iterator[Bench]:
    """A bench whose CPU heeds SIGUSR1, as in its own process."""
    bench.cpu.stop_stub.install()
    yield bench
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def test_a_stop_byte_ends_the_slice_and_the_guest_goes_on_where_it_was(heeding: Bench) -> None:
    heeding.gate.mailbox.set_stop(0, True)
    interrupt()
    heeding.run("start: xor %ebx, %ebx; mov $1000, %ecx; 1: inc %rbx; dec %ecx; jnz 1b; done")
    assert heeding.gate.stops == 1
    assert heeding.q[RBX] == 1000


def test_interrupted_stores_are_done_once(heeding: Bench) -> None:
    finished = threading.Event()

    def interrupt_often() -> None:
        while not finished.wait(0.0002):
            heeding.gate.mailbox.set_stop(0, True)
            interrupt()

    thread = threading.Thread(target=interrupt_often)
    thread.start()
    try:
        heeding.run(
            f"start: xor %ebx, %ebx; mov ${LOOPS}, %ecx; 1: incq DATA; incq %rbx; dec %ecx; jnz 1b; done"
        )
    finally:
        finished.set()
        thread.join()
    assert heeding.gate.stops > 10
    assert (heeding.q[RBX], heeding.word(DATA)) == (LOOPS, LOOPS)


def test_one_interrupt_is_enough_to_stop_an_endless_loop(heeding: Bench) -> None:
    """The guest counts how often it was let go; each time it runs one signal stops it, whenever that comes."""
    rounds = 80
    running = heeding.memory.view(heeding.v.paging.translate(DATA), 8)
    heeding.write(DATA, bytes(8))

    def interrupt_once_a_round() -> None:
        for number in range(1, rounds + 1):
            deadline = time.monotonic() + 20
            while int.from_bytes(running, "little") != number and time.monotonic() < deadline:
                pass
            interrupt()

    thread = threading.Thread(target=interrupt_once_a_round)
    thread.start()
    labels: dict[str, int] = {}
    heeding.run("start: done; again: incq DATA; 1: jmp 1b", setup=labels.update)
    for _ in range(rounds):
        heeding.q[RIP] = labels["again"]
        heeding.cpu.run_slice()
    thread.join()
    assert heeding.word(DATA) == rounds


def test_an_event_interrupts_a_running_guest(heeding: Bench) -> None:
    def raise_when_running() -> None:
        heeding.gate.mailbox.raise_port(7, 0)
        interrupt()

    thread = threading.Thread(target=raise_when_running)
    heeding.v.events.upcall_mask = False
    thread.start()
    heeding.run(
        "start: 1: jmp 1b; handler: mov $7, %ebx; done",
        setup=lambda labels: heeding.callback(0, labels["handler"]),
    )
    thread.join()
    assert heeding.q[RBX] == 7
    assert heeding.pending[0] == 1 << 7
