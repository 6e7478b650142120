"""The one place where a kernel waits: events, timers, and no lost wake-up."""

import os
import socket
from collections.abc import Callable
from contextlib import closing
from functools import partial

import pytest

from domains.cpu.watched_fds import WatchedFds
from domains.kernel import waiting
from domains.kernel.host_fds import HOST_IRQ
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Task
from domains.kernel.waiting import HandlerWaits, Once
from hypervisor.public.types import Port
from hypervisor.public.xen import Hypercall
from tests.domains.kernel.one_process import PythonDomain
from tests.inprocess import InProcess


def loopback(domain: PythonDomain, kernel: Kernel, handler: object) -> tuple[Port, Port]:
    """Two ports of this domain connected with each other; `handler` serves the second, which has been raised
    once (E3).
    """
    domid = domain.gate.domid
    port = kernel.events.alloc_unbound(domid)
    other = kernel.events.bind_interdomain(domid, port)
    kernel.events.bind(other, handler)  # type: ignore[arg-type]
    return port, other


def test_wait_returns_at_once_when_the_condition_holds(domain: PythonDomain, kernel: Kernel) -> None:
    domain.gate.calls.clear()
    assert kernel.wait(lambda: True)
    assert domain.gate.calls == []


def test_wait_gives_up_after_its_timeout_and_not_before(kernel: Kernel) -> None:
    before = kernel.now()
    assert not kernel.wait(lambda: False, 0.02)
    assert kernel.now() - before >= 20_000_000


def test_system_time_is_the_hypervisors(domain: PythonDomain, kernel: Kernel) -> None:
    before = domain.gate.machine.hv.now()
    assert before <= kernel.now() <= domain.gate.machine.hv.now()


def test_each_event_is_handled_after_it_was_sent(domain: PythonDomain, kernel: Kernel) -> None:
    seen: list[int] = []
    port, _ = loopback(domain, kernel, lambda: seen.append(1))

    def have_come(count: int) -> bool:
        return len(seen) >= count

    for i in range(1, 50):
        kernel.events.notify(port)
        assert kernel.wait(partial(have_come, i), 1)


def test_a_masked_port_is_served_after_unmasking(domain: PythonDomain, kernel: Kernel) -> None:
    seen: list[int] = []
    port, other = loopback(domain, kernel, lambda: seen.append(1))
    assert kernel.wait(lambda: bool(seen), 1)
    kernel.events.mask(other)
    kernel.events.notify(port)
    assert not kernel.wait(lambda: len(seen) > 1, 0.01)
    kernel.events.unmask(other)
    assert kernel.wait(lambda: len(seen) == 2, 1)


def test_a_closed_port_is_not_served(domain: PythonDomain, kernel: Kernel) -> None:
    seen: list[int] = []
    port, other = loopback(domain, kernel, lambda: seen.append(1))
    assert kernel.wait(lambda: bool(seen), 1)
    kernel.events.notify(port)
    kernel.events.close(other)
    assert not kernel.wait(lambda: len(seen) > 1, 0.01)


def test_an_event_between_the_last_look_and_the_block_wakes_the_guest(
    domain: PythonDomain, kernel: Kernel
) -> None:
    """The event comes as a signal would bring it: when upcalls are masked already and the hypercall is not
    yet made.
    """
    seen: list[int] = []
    _, other = loopback(domain, kernel, lambda: seen.append(1))
    assert kernel.wait(lambda: bool(seen), 1)
    mask = kernel.shared_info.mask_upcalls

    def mask_and_raise() -> None:
        mask()
        domain.built.domain.mailbox.raise_port(other, 0)
        domain.cpu.interrupt()

    kernel.shared_info.mask_upcalls = mask_and_raise  # type: ignore[method-assign]
    assert kernel.wait(lambda: len(seen) > 1)


def test_an_event_before_the_last_look_wakes_the_guest(domain: PythonDomain, kernel: Kernel) -> None:
    seen: list[int] = []
    _, other = loopback(domain, kernel, lambda: seen.append(1))
    assert kernel.wait(lambda: bool(seen), 1)
    mask = kernel.shared_info.mask_upcalls

    def raise_and_mask() -> None:
        domain.built.domain.mailbox.raise_port(other, 0)
        domain.cpu.interrupt()
        mask()

    kernel.shared_info.mask_upcalls = raise_and_mask  # type: ignore[method-assign]
    assert kernel.wait(lambda: len(seen) > 1)


def test_timers_run_in_order_while_the_guest_waits(kernel: Kernel) -> None:
    seen: list[int] = []
    for delay in (30, 10, 20):
        kernel.call_later(delay / 1000, partial(seen.append, delay))
    cancelled = kernel.call_later(0.005, lambda: seen.append(5))
    cancelled.cancel()
    assert kernel.wait(lambda: len(seen) == 3, 5)
    assert seen == [10, 20, 30]


def test_a_handler_that_waits_is_refused_by_name(kernel: Kernel) -> None:
    """Whatever it waits with, and at once, even for what holds already. Controls: the same in straight-line code, and what a
    task yields.
    """
    refused: list[str] = []

    def impatient() -> None:
        waits: list[Callable[[], object]] = [
            lambda: kernel.wait(lambda: True),
            lambda: kernel.sleep(0),
            lambda: kernel.run(kernel.rest(0)),
            lambda: kernel.console.readline(0),
        ]
        for wait in waits:
            with pytest.raises(HandlerWaits) as refusal:
                wait()
            refused.append(str(refusal.value))

    def step() -> Task[None]:
        yield from kernel.rest(0)
        impatient()

    kernel.call_soon(impatient)
    assert kernel.wait(lambda: len(refused) == 4, 5)
    assert all("impatient waits" in text for text in refused)
    kernel.spawn(step())
    assert kernel.wait(lambda: len(refused) == 8, 5)
    assert all("step waits" in text for text in refused[4:])
    kernel.sleep(0)
    kernel.run(kernel.rest(0))


def test_a_refused_handler_leaves_the_kernel_able_to_wait(kernel: Kernel) -> None:
    kernel.call_soon(lambda: kernel.sleep(1))
    with pytest.raises(HandlerWaits):
        kernel.wait(lambda: False, 1)
    assert not kernel.in_handler
    assert not kernel.wait(lambda: False, 0.001)


def test_what_a_handler_raises_reaches_the_one_who_waits(kernel: Kernel) -> None:
    def broken() -> None:
        raise LookupError("of the handler")

    kernel.call_soon(broken)
    with pytest.raises(LookupError):
        kernel.wait(lambda: False, 1)
    assert not kernel.wait(lambda: False, 0.001)


def looked(domain: PythonDomain) -> bool:
    """Whether a hypercall was made for nothing but the look at host descriptors."""
    return any(call[0] == Hypercall.xen_version for call in domain.gate.calls)


def always_ready(kernel: Kernel, rounds: int, handler: Callable[[], object]) -> Once:
    """Has `handler` called in each of so many rounds of the loop, which never sleeps meanwhile; set at the end."""
    done = Once()

    def run(left: int) -> None:
        handler()
        kernel.call_soon(partial(run, left - 1) if left else done.set)

    kernel.call_soon(partial(run, rounds))
    return done


def test_handlers_that_are_always_ready_leave_looks_at_host_descriptors(
    domain: PythonDomain, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOOK_NS", 0)
    assert kernel.host_fds
    domain.gate.calls.clear()
    assert kernel.wait(always_ready(kernel, 20, lambda: None).is_set)
    assert looked(domain)


def test_a_hypercall_that_has_looked_at_host_descriptors_is_followed_by_no_further_one_for_that(
    domain: PythonDomain, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel once counted its own looks only, and made up to one hypercall more for each that it made anyway."""
    monkeypatch.setattr(waiting, "LOOK_NS", 0)
    assert kernel.host_fds
    domain.gate.calls.clear()
    port, _ = loopback(domain, kernel, lambda: None)
    assert kernel.wait(always_ready(kernel, 20, lambda: kernel.events.notify(port)).is_set)
    assert not looked(domain)


def test_a_wait_that_has_just_slept_makes_no_hypercall_to_look_at_host_descriptors(
    domain: PythonDomain, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOOK_NS", 0)
    assert kernel.host_fds
    domain.gate.calls.clear()
    seen: list[int] = []
    kernel.call_later(0.001, lambda: seen.append(1))
    assert kernel.wait(lambda: bool(seen), 5)
    assert not looked(domain)


def test_a_host_descriptor_that_is_ready_is_served_without_a_hypercall(
    machine: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request of a client of Dom0's once cost a message to the core and one back, though it came before Dom0 had slept.
    On a machine that repeats itself the core alone says when to look.
    """
    domain = PythonDomain(machine, privileged=True)
    domain.built.domain.events.permitted_pirqs.add(HOST_IRQ)
    kernel = domain.boot()
    near, far = socket.socketpair()
    core = os.eventfd(0)
    domain.gate.watched = WatchedFds(core)
    got: list[bytes] = []

    def serve() -> None:
        got.append(near.recv(1))
        if len(got) < 3:
            far.send(b"again")

    with closing(near), closing(far):
        kernel.add_reader(near.fileno(), serve)
        far.send(b"x")
        with monkeypatch.context() as repeating:
            repeating.setattr(domain.gate, "meter", object())
            assert not kernel.host_fds.look()
        domain.gate.calls.clear()
        assert kernel.wait(lambda: len(got) >= 3)
        assert domain.gate.calls == []
        kernel.remove_reader(near.fileno())
    os.close(core)
