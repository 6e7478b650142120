"""What reaches Dom0's toolstack is what the operations declare, or it is refused in one line; nothing that a client may
send raises in Dom0.

Control of the random requests: the same client's well-formed request is served between them.
"""

from __future__ import annotations

import random
import typing
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
import zmq

from domains.control.address import MachineAddress
from domains.control.description import Action, Disk, DomainConfig, Rate, Vif
from domains.control.operations import (
    OPERATIONS,
    Create,
    DebugKeys,
    Info,
    NetworkCapture,
    Shutdown,
    answers_of,
)
from domains.control.records import Malformed, Range, Record, decode, encode
from domains.control.server import arguments_of
from tests.machines import Machine

REQUESTS = 400
CONFIG = DomainConfig("x", "python:a:B")
FULL = DomainConfig(
    name="web",
    kernel="/boot/vmlinuz",
    disks=(Disk("/x,y.img", "xvda", writable=False, cdrom=True, backend="disks"),),
    vifs=(Vif("00:16:3e:00:00:01", rate=Rate(5, 7), mtu=1500),),
    on_crash=Action.RENAME_RESTART,
    cpu_weight=9,
)
ENDS_THE_MACHINE = {"stop"}


@pytest.mark.parametrize(
    "arguments", [Info(), DebugKeys("q"), Create(FULL, paused=True), Shutdown("a", timeout=2)]
)
def test_arguments_come_out_as_they_went_in(arguments: Any) -> None:
    plain = msgpack.unpackb(msgpack.packb(encode(arguments)))
    assert decode(type(arguments), plain) == arguments


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ({}, "needs 'op'"),
        ({"op": 5}, "needs 'op'"),
        ({"op": "frob"}, "unknown operation 'frob'"),
        ({"op": "info", "x": 1}, "has no 'x'"),
        ({"op": "pause"}, "needs 'domain'"),
        ({"op": "pause", "domain": 5}, "must be a text"),
        ({"op": "pause", "domain": "a\0b"}, "NUL"),
        ({"op": "pause", "domain": "x" * 5000}, "longer"),
        ({"op": "shutdown", "domain": "x", "wait": 1}, "true or false"),
        ({"op": "shutdown", "domain": "x", "timeout": -1}, "between"),
        ({"op": "shutdown", "domain": "x", "timeout": 1e300}, "between"),
        ({"op": "shutdown", "domain": "x", "timeout": float("nan")}, "number"),
        ({"op": "shutdown", "domain": "x", "timeout": True}, "number"),
        ({"op": "console-detach", "request": -1}, "between"),
        ({"op": "console-detach", "request": 1 << 63}, "between"),
        ({"op": "network-capture"}, "a domain, or a bridge"),
        ({"op": "network-capture", "domain": "x", "vif": -1}, "between"),
        ({"op": "debug-keys", "keys": "q" * 100}, "longer"),
        ({"op": "create", "config": "name='x'"}, "must be a map"),
        ({"op": "create", "config": {**encode(CONFIG), "memory": 1 << 40}}, "'memory' must lie"),
        ({"op": "create", "config": {**encode(CONFIG), "memory": -4}}, "'memory' must lie"),
        ({"op": "create", "config": {**encode(CONFIG), "memory": 500}}, "less than memory"),
        ({"op": "create", "config": {**encode(CONFIG), "name": "a/b"}}, "name"),
        ({"op": "create", "config": {**encode(CONFIG), "on_crash": "explode"}}, "'on_crash'"),
        ({"op": "create", "config": {**encode(CONFIG), "uuid": 7}}, "'uuid'"),
        ({"op": "create", "config": {**encode(CONFIG), "disks": [{"target": "/x", "vdev": "frob"}]}}, "frob"),
        ({"op": "create", "config": {**encode(CONFIG), "vifs": [{"mac": "01:00:00:00:00:00"}]}}, "'mac'"),
        ({"op": "create", "config": {**encode(CONFIG), "vifs": [{}] * 1000}}, "longer"),
    ],
)
def test_what_is_not_declared_is_refused_in_one_line(request_: dict[str, Any], why: str) -> None:
    with pytest.raises(Malformed) as caught:
        arguments_of(dict(request_))
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_that_is_too_long_is_refused_before_its_items_are_looked_at() -> None:
    """Dom0's loop would be held for as long as the sender likes. Control: one that is not too long is refused for its item."""
    for count, why in ((257, "longer than 256"), (1, "must be a map")):
        with pytest.raises(Malformed, match=why):
            decode(Create, {"config": {**encode(CONFIG), "vifs": ["no interface"] * count}})


def test_a_record_is_made_compared_and_changed_as_a_dataclass_is() -> None:
    """Which mypy takes it for, so that it finds what is wrong before it runs; here are the errors of what it cannot know."""
    rate = Rate(5, interval_usecs=7)
    assert (rate, hash(rate), repr(rate)) == (
        Rate(5, 7),
        hash(Rate(5, 7)),
        "Rate(bytes_per_interval=5, interval_usecs=7)",
    )
    assert rate.replaced(interval_usecs=8) == Rate(5, 8) != rate
    assert Vif().bridge == "xenbr0"
    assert NetworkCapture.fields == ("domain", "vif", "bridge")
    for values, named in (([5], {}), ([5, 6, 7], {}), ([], {"bytes": 5})):
        with pytest.raises(TypeError, match="Rate takes bytes_per_interval, interval_usecs"):
            Rate(*values, **named)
    with pytest.raises(AttributeError):
        setattr(rate, "interval_usecs", 9)  # noqa: B010 - mypy knows already that it may not
    with pytest.raises(ValueError, match="maxmem 1 is less"):
        CONFIG.replaced(memory=2, maxmem=1)


def numbers_without_range(kind: Any, inside: bool = False) -> Iterator[Any]:
    """Annotated types of numbers in a record, and in those within it, that say no range."""
    if typing.get_origin(kind) is typing.Annotated:
        base, *bounds = typing.get_args(kind)
        yield from numbers_without_range(base, any(isinstance(bound, Range) for bound in bounds))
    elif isinstance(kind, type) and issubclass(kind, Record):
        for hint in typing.get_type_hints(kind, include_extras=True).values():
            yield from numbers_without_range(hint)
    elif typing.get_args(kind):
        for part in typing.get_args(kind):
            yield from numbers_without_range(part)
    elif kind in (int, float) and not inside:
        yield kind


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_number_of_every_operation_has_its_range(name: str) -> None:
    assert not list(numbers_without_range(OPERATIONS[name]))
    assert not [found for answer in answers_of(OPERATIONS[name]) for found in numbers_without_range(answer)]


def test_a_capture_is_of_a_domain_or_of_a_bridge() -> None:
    with pytest.raises(ValueError, match="name a domain"):
        NetworkCapture("web", 0, "xenbr0")


class Noise:
    """Random plain values, of the kinds that msgpack has, near to what operations take."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def value(self, depth: int = 0) -> Any:
        """Anything."""
        pick = self._chance.choice
        simple: list[Callable[[], Any]] = [
            lambda: pick([None, True, False, 0, -1, 1, 1 << 31, -(1 << 31), (1 << 64) - 1, -(1 << 63)]),
            lambda: pick([0.0, -0.0, 1e308, float("inf"), float("-inf"), float("nan"), 0.5]),
            lambda: pick(
                ["", "0", "Domain-0", "nobody", "99999", "/", "//", "/a\0", "x" * 300, "\x1b[2J", "é"]
            ),
            lambda: self._chance.randbytes(self._chance.randrange(40)),
            lambda: dict(encode(CONFIG)),
        ]
        nested: list[Callable[[], Any]] = [
            lambda: [self.value(depth + 1) for _ in range(self._chance.randrange(4))],
            lambda: {self.name(): self.value(depth + 1) for _ in range(self._chance.randrange(4))},
        ]
        return pick(simple + (nested if depth < 3 else []))()

    def name(self) -> str:
        """A field's name."""
        return self._chance.choice(
            ["domain", "config", "wait", "timeout", "path", "keys", "vif", "memory", "name"]
        )

    def request(self, number: int) -> Any:
        """A request that is mostly wrong."""
        op = self._chance.choice([name for name in OPERATIONS if name not in ENDS_THE_MACHINE])
        known = list(typing.get_type_hints(OPERATIONS[op]))
        message = {field: self.value() for field in known if self._chance.random() < 0.8}
        if self._chance.random() < 0.2:
            message[self.name()] = self.value()
        message |= {"op": op, "id": number}
        for field in ("op", "id"):
            if self._chance.random() < 0.1:
                message[field] = self.value()
        return message if self._chance.random() < 0.9 else self.value()


def test_random_requests_never_raise_in_dom0(shared_machine: Machine, steps: int | None) -> None:
    noise = Noise(random.Random(7))
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(MachineAddress.in_folder(shared_machine.folder).endpoint)
        for number in range(steps or REQUESTS):
            packed = msgpack.packb(noise.request(number))
            frames = [packed] if number % 20 else [packed, b"another frame"]
            socket.send_multipart([packed[: number % len(packed)]] if number % 7 == 0 else frames)
            socket.send(msgpack.packb({"op": "domname", "domain": "0", "id": 1 << 40 | number}))
            while True:
                assert socket.poll(20_000), f"no answer after request {number}"
                reply = msgpack.unpackb(socket.recv())
                if not reply["ok"]:
                    assert "\n" not in reply["error"]
                    assert "the toolstack failed" not in reply["error"]
                if reply["id"] == 1 << 40 | number:
                    assert reply["result"] == "Domain-0"
                    break
    assert "Traceback" not in shared_machine.xenctl("dmesg").stdout
    assert "Traceback" not in (shared_machine.folder / "log").read_text()
