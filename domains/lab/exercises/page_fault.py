"""The exercise of the page-fault handler: the student's file takes the place of fault.c, on bare hardware, on ESX and on Xen."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from domains.lab.compare import SYSTEMS
from domains.lab.exercises.exercise import Check, Exercise
from domains.lab.image import Image, changed_image, kernel_image
from domains.lab.systems.system import POOL_PAGES, Crashed
from domains.lab.trace import Observer

ENOUGH: Final = 200_000
"""Instructions: a right handler needs a tenth of them."""
PORTS: Final = {"native": "bare", "esx": "bare", "xen": "xen"}
SYSTEM_TITLES: Final = {
    "native": "on bare hardware",
    "esx": "under ESX, whose monitor sees each store",
    "xen": "on Xen",
}


class Part(NamedTuple):
    """A program of programs.S whose end says whether the handler did this: EBX is 0 then. `hint`: what to look at."""

    program: str
    what: str
    hint: str


PARTS: Final = (
    Part(
        "check_demand",
        "a page that is touched for the first time is there",
        "an entry that is not PRESENT wants a new page",
    ),
    Part(
        "check_zero",
        "such a page is empty",
        "another process may have had it, and its content is told: clear it",
    ),
    Part(
        "check_copy",
        "after a fork a write is not seen by the other process",
        "COPY_ON_WRITE in the entry and FAULT_WRITE in the error code: copy the page",
    ),
    Part(
        "check_last",
        "the last of those who share a page keeps it",
        "look at *users_of(page) before you copy, and free_page what you leave",
    ),
    Part(
        "check_refused",
        "a write to a page that is read-only for good is refused",
        "an entry that is present, and not COPY_ON_WRITE: skip_or_end",
    ),
    Part(
        "check_outside",
        "an access outside the process' area is refused",
        "ask is_user first: entry_at is for the area alone",
    ),
)


def check(file: Path) -> Iterator[Check]:
    """Try the handler in `file`. LabError: it cannot be compiled."""

    @cache
    def image(port: str) -> Image:
        return changed_image(port, "fault.c", file)

    for part in PARTS:
        for name, title in SYSTEM_TITLES.items():
            missing = outcome(name, image(PORTS[name]), part.program)
            what = f"{part.what}, {title}"
            if missing:
                yield Check(what, f"{missing}. Hint: {part.hint}")
                return
            yield Check(what)


WORDS: Final = ("sum", "copies", "nr_free")


class End(NamedTuple):
    """What a run left: the processes' sums, and the kernel's counters."""

    sum: int
    copies: int
    nr_free: int
    users: bytes
    """Of each page, how many entries name it."""


def run(name: str, image: Image, program: str) -> End:
    """One program on one system, with the kernel of `image`. Crashed."""
    system = SYSTEMS[name][1](image=image)
    observer = Observer(system.monitor, 0, 0)
    system.observe(observer)
    observer.limit = ENOUGH
    try:
        system.run([program])
        total, copies, free = (int.from_bytes(system.read(image.at(word), 4), "little") for word in WORDS)
        return End(
            total, copies, free, bytes(system.read(image.at("users") + n, 1)[0] for n in range(POOL_PAGES))
        )
    finally:
        system.close()


@cache
def by_the_kernel_itself(name: str, program: str) -> End:
    """The same with fault.c."""
    return run(name, kernel_image(PORTS[name]), program)


def outcome(name: str, image: Image, program: str) -> str:
    """What is wrong with this run; "": nothing."""
    wanted = by_the_kernel_itself(name, program)
    try:
        got = run(name, image, program)
    except Crashed as crash:
        return str(crash).splitlines()[0]
    if got.sum:
        return f"the program was told something else ({got.sum:#x})"
    if got.copies != wanted.copies:
        return f"`copies` is {got.copies} at the end, and should be {wanted.copies}"
    if got.nr_free != wanted.nr_free:
        return f"{got.nr_free} pages are free at the end, and should be {wanted.nr_free}"
    if got.users != wanted.users:
        return "*users_of(page) is wrong for a page at the end: it was copied, and the old one not given up"
    return ""


EXERCISE: Final = Exercise(
    "page-fault",
    "Write the page-fault handler of the kernel under test: pages on demand, copies on write, and refusals.",
    Path(__file__).with_name("fault.c"),
    check,
)
