"""What a workload file may say, and reading one: every mistake is told, with its line and column (docs/sched-sim.md)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from domains.control.protocol import ControlError, Exit
from domains.xenctl.sched_sim.tasks import Does
from domains.xenctl.topology.problems import located, problem_of, read_document, validated
from domains.xenctl.topology.source import Path, Problem
from hypervisor.public.errno import XenError
from hypervisor.sched.params import BvtParams, CreditParams, RtdsParams
from hypervisor.sched.policies import make_scheduler

DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|ms|s)")
UNITS: Final = {"ns": 1, "us": 1000, "ms": 1_000_000, "s": 1_000_000_000}
MAX_NS: Final = 24 * 3600 * UNITS["s"]
MAX_VCPUS: Final = 1024
"""Of a whole workload."""
MAX_TURNS: Final = 20_000_000
"""How often all vCPUs together may begin to work anew: each takes some 30 us and 8 bytes of the simulation."""
WHOLE: Final = "a workload"
NAME: Final = r"^[A-Za-z][A-Za-z0-9_-]{0,31}$"


def parse_duration(value: Any) -> Any:
    """Nanoseconds of `1.5ms`."""
    found = DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"'{value}' is no duration, such as 1.5ms, 50us or 2s")
    nanoseconds = float(found.group(1)) * UNITS[found.group(2)]
    if not 1 <= nanoseconds <= MAX_NS:
        raise ValueError("a duration is from 1ns to 86400s, a day")
    return round(nanoseconds)


Duration = Annotated[int, Field(ge=1, le=MAX_NS), BeforeValidator(parse_duration)]
Cpus = Annotated[list[Annotated[int, Field(ge=0, le=63)]], Field(min_length=1, max_length=64)]


class Part(BaseModel):
    """What all parts share: nothing unknown, nothing converted, nothing changed later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Activity(Part):
    """What the vCPUs of a domain do (tasks.py). `compute` alone is `{}`."""

    work: Duration | None = None
    sleep: Duration | None = None
    every: Duration | None = None
    dodge: Duration | None = None
    gap: Duration | None = None
    yield_after: Duration | None = None
    random: bool = False

    @model_validator(mode="before")
    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """`compute` is always runnable."""
        return {} if value == "compute" else value

    @model_validator(mode="after")
    def one_kind(self) -> Activity:
        """Of the kinds one, whole."""
        given = {
            name for name in ("work", "sleep", "every", "dodge", "gap", "yield_after") if getattr(self, name)
        }
        if given not in (set(), {"work", "sleep"}, {"work", "every"}, {"dodge", "gap"}, {"yield_after"}):
            raise ValueError(
                "is compute, or has work and sleep, work and every, dodge and gap, or yield_after, "
                f"not {', '.join(sorted(given))}"
            )
        if self.dodge is not None and self.gap is not None and self.gap >= self.dodge:
            raise ValueError("gap must be less than dodge")
        return self

    @property
    def cycle(self) -> int | None:
        """The shortest time, ns, in which a vCPU can begin to work anew, on average; None: it never does."""
        if self.work and self.sleep:
            return self.work + self.sleep
        return self.every or self.dodge or self.yield_after

    def in_ns(self) -> Does:
        """For a task."""
        times = {name: getattr(self, name) or 0 for name in Activity.model_fields if name != "random"}
        return Does(**times, random=self.random)


class Rtds(Part):
    """Parameters under rtds, of each vCPU."""

    period: Duration = 10_000_000
    budget: Duration = 4_000_000
    extratime: bool = True

    def params(self) -> RtdsParams:
        """XenError(EINVAL)."""
        return RtdsParams(self.period // 1000, self.budget // 1000, self.extratime)


class Bvt(Part):
    """Parameters under bvt, beside the weight: `warp` is the warp value."""

    warp: Duration
    limit: Duration | None = None
    unwarp: Duration | None = None

    def params(self, weight: int) -> BvtParams:
        """XenError(EINVAL)."""
        return BvtParams(
            weight, True, self.warp // 1000, (self.limit or 0) // 1000, (self.unwarp or 0) // 1000
        )


class Domain(Part):
    """Domains of one kind."""

    does: Activity
    count: int = Field(default=1, ge=1, le=MAX_VCPUS)
    vcpus: int = Field(default=1, ge=1, le=128)
    weight: int = Field(default=256, ge=1, le=65535)
    cap: int = Field(default=0, ge=0, le=12800)
    cpus: Cpus | None = None
    cpus_soft: Cpus | None = None
    start: Duration | None = None
    stop: Duration | None = None
    rtds: Rtds | None = None
    bvt: Bvt | None = None

    @model_validator(mode="after")
    def parameters_are_right(self) -> Domain:
        """As Xen would take them."""
        try:
            CreditParams(self.weight, self.cap)
            if self.cap > 100 * self.vcpus:
                raise ValueError(f"cap is at most 100 for each vCPU, not {self.cap}")
            if self.rtds is not None:
                self.rtds.params()
            if self.bvt is not None:
                self.bvt.params(self.weight)
        except XenError as error:
            raise ValueError(str(error)) from None
        if self.stop is not None and self.stop <= (self.start or 0):
            raise ValueError("stop must come after start")
        return self


class Choice(Part):
    """A scheduler, and how long its slices are."""

    name: str
    slice: Duration | None = None

    @model_validator(mode="before")
    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """A name alone, or name:slice as on the command line."""
        if not isinstance(value, str):
            return value
        name, colon, slice_ = value.partition(":")
        return {"name": name, "slice": slice_} if colon else {"name": name}

    @model_validator(mode="after")
    def exists(self) -> Choice:
        """There is such a scheduler, and it has slices of that length."""
        try:
            make_scheduler(self.name, self.slice)
        except XenError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def label(self) -> str:
        """What a reader sees."""
        return self.name if self.slice is None else f"{self.name} {self.slice / 1e6:g} ms"


class Frame(Part):
    """A minor frame of the ARINC 653 schedule."""

    domain: str
    vcpu: int = Field(default=0, ge=0, le=127)
    runs: Duration


class Arinc653(Part):
    """The schedule, for when that scheduler is simulated."""

    major: Duration
    frames: list[Frame] = Field(min_length=1, max_length=64)


class Workload(Part):
    """A whole file."""

    domains: dict[Annotated[str, Field(pattern=NAME)], Domain] = Field(min_length=1)
    cpus: int = Field(default=1, ge=1, le=64)
    time: Duration = 10 * UNITS["s"]
    seed: int = Field(default=1, ge=0, lt=1 << 64)
    switch: Duration | None = None
    stop: Duration = 50_000
    schedulers: list[Choice] = Field(
        default_factory=lambda: [Choice(name="credit2")], min_length=1, max_length=16
    )
    arinc653: Arinc653 | None = None

    def problems(self) -> list[Problem]:
        """What is wrong between its parts."""
        found = []
        total = sum(domain.count * domain.vcpus for domain in self.domains.values())
        if total > MAX_VCPUS:
            found.append(Problem(("domains",), f"{total} vCPUs; a workload has {MAX_VCPUS} at most"))
        turns = sum(self._turns(domain) for domain in self.domains.values())
        if turns > MAX_TURNS:
            found.append(
                Problem(
                    ("domains",),
                    f"the vCPUs would begin to work {turns:,} times in this time; {MAX_TURNS:,} times are simulated at most",
                )
            )
        for name, domain in self.domains.items():
            for key in ("cpus", "cpus_soft"):
                for index, cpu in enumerate(getattr(domain, key) or ()):
                    if cpu >= self.cpus:
                        found.append(
                            Problem(
                                ("domains", name, key, index),
                                f"there is no CPU {cpu}: the workload has {self.cpus}",
                            )
                        )
        if self.arinc653 is not None:
            for index, frame in enumerate(self.arinc653.frames):
                if frame.domain not in self.domains:
                    path = ("arinc653", "frames", index, "domain")
                    found.append(Problem(path, f"there is no domain '{frame.domain}'"))
            if sum(frame.runs for frame in self.arinc653.frames) > self.arinc653.major:
                found.append(Problem(("arinc653", "major"), "major is shorter than its frames together"))
        return found

    def _turns(self, domain: Domain) -> int:
        """How often the vCPUs of one kind begin to work anew, at most."""
        cycle, vcpus = domain.does.cycle, domain.count * domain.vcpus
        if cycle is None:
            return 0
        return self.time * (min(vcpus, self.cpus) if domain.does.yield_after else vcpus) // cycle


class WorkloadError(ControlError):
    """A file that cannot be simulated; a line for each mistake, `file:line:column: message`."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(Exit.FAILURE, "\n".join(lines))


def load(file: FilePath) -> Workload:
    """WorkloadError, and ControlError if it cannot be read."""
    document = read_document(file, WorkloadError)
    workload, problems = validated(document, Workload, WHOLE, known_keys)
    if workload is not None:
        problems = workload.problems()
    if problems or workload is None:
        raise WorkloadError(list(dict.fromkeys(located(problems, document, str(file)))))
    return workload


def with_options(
    workload: Workload, cpus: int | None, time_ns: int | None, schedulers: Sequence[str]
) -> Workload:
    """The workload with what the command line says instead. ControlError."""
    changes: dict[str, Any] = {}
    if cpus is not None:
        changes["cpus"] = cpus
    if time_ns is not None:
        changes["time"] = time_ns
    try:
        if schedulers:
            changes["schedulers"] = [Choice.model_validate(one) for one in schedulers]
    except ValidationError as error:
        raise ControlError(Exit.USAGE, problem_of(error.errors()[0], WHOLE, known_keys).message) from None
    changed = workload.model_copy(update=changes)
    for problem in changed.problems():
        raise ControlError(Exit.USAGE, problem.message)
    return changed


PARTS: Final[dict[str, type[BaseModel]]] = {
    "does": Activity,
    "rtds": Rtds,
    "bvt": Bvt,
    "arinc653": Arinc653,
    "frames": Frame,
    "schedulers": Choice,
    "domains": Domain,
}
"""By the last word of a path that names one: what may stand there."""


def known_keys(path: Path) -> list[str]:
    """Keys that the part at `path` may have."""
    part = next((PARTS[str(word)] for word in reversed(path) if word in PARTS), Workload)
    return list(part.model_fields)
