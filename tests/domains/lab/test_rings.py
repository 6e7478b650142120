"""rings: exactly who may touch what. Negative controls: x86-32's kernel with all its pages for users, and a 64-bit kernel whose
user's half has its kernel's pages, are seen.
"""

from functools import cache
from pathlib import Path

import pytest

from domains.lab.compare import Measured, measure
from domains.lab.experiments.rings import (
    KERNEL,
    RINGS,
    STACKS,
    TOUCHED,
    USER,
    WAYS_IN,
    answer,
    claims,
    stack_of,
    try_all,
)
from domains.lab.image import SOURCES, Image, changed_image
from domains.lab.probes import Trials, try_probes
from domains.lab.systems.ring0 import Ring0
from domains.lab.systems.xen import Xen

REFUSED = {
    "read_supervisor": ("done", "done", "#PF(0x5)"),
    "write_supervisor": ("done", "done", "#PF(0x7)"),
    "write_read_only": ("#PF(0x3)", "#PF(0x3)", "#PF(0x7)"),
    "load_segment_0": ("done", "#GP(0x38)", "#GP(0x38)"),
    "load_segment_1": ("done", "done", "#GP(0x40)"),
    **dict.fromkeys(("read_cr3", "cli", "in"), ("done", "#GP", "#GP")),
}


@cache
def tried() -> tuple[Trials, Trials]:
    return try_all()


@cache
def call() -> Measured:
    return measure("xen", "null_call")


def changed(tmp_path: Path, port: str, name: str, old: str, new: str) -> Image:
    text = (SOURCES / name).read_text()
    assert text.count(old) == 1
    (tmp_path / name).write_text(text.replace(old, new))
    return changed_image(port, name, tmp_path / name)


@pytest.mark.parametrize("name", TOUCHED)
def test_who_may_touch_what(name: str) -> None:
    answers = tuple(answer(tried()[0][name, ring]) for ring in RINGS)
    assert answers == REFUSED.get(name, ("done",) * 3)


def test_a_stack_for_each_ring() -> None:
    assert [[stack_of(name, tried()[0][name, ring]) for ring in RINGS] for name in WAYS_IN] == STACKS


@pytest.mark.parametrize(
    ("name", "kernel", "user"),
    [
        ("read_kernel", "done", "#PF(0x4)"),
        ("write_table", "#PF(0x3)", "#PF(0x6)"),
        ("write_read_only", "#PF(0x3)", "#PF(0x7)"),
        ("read_xen", "#PF(0x0)", "#PF(0x4)"),
        ("read_cr3", "done", "#GP"),
        ("cli", "#GP", "#GP"),
        ("in", "#GP", "#GP"),
    ],
)
def test_the_halves_of_a_64_bit_guest(name: str, kernel: str, user: str) -> None:
    halves = tried()[1]
    assert (answer(halves[name, KERNEL]), answer(halves[name, USER])) == (kernel, user)
    assert halves[name, USER].switches == 1


def test_a_64_bit_system_call() -> None:
    outcome = tried()[1]["system_call", USER]
    assert outcome.entries == {"system call": 1, "hypercall iret": 1}
    assert (outcome.switches, call().part.nr_exits) == (2, 0)


def test_pages_of_the_kernel_s_for_all_are_seen(tmp_path: Path) -> None:
    image = changed(tmp_path, "probe", "probe.c", "n * PAGE_SIZE | PRESENT | WRITE;", "n * PAGE_SIZE | 7;")
    native = try_probes(Ring0("native", image), RINGS)
    assert [claim.text for claim in claims(native, tried()[1], call()) if not claim.holds] == [
        "… and keeps ring 3 from supervisor pages"
    ]


def test_the_kernel_s_pages_in_the_user_s_half_are_seen(tmp_path: Path) -> None:
    image = changed(tmp_path, "xen64", "xen64.c", "at < user_end;", "at < user_end + PAGE_SIZE;")
    halves = try_probes(Xen(image), (KERNEL, USER))
    assert [claim.text for claim in claims(tried()[0], halves, call()) if not claim.holds] == [
        "x86-64: the page table, and CR3 that Xen reads for the kernel, tell the halves apart"
    ]
