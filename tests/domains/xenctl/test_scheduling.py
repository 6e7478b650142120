"""vcpu-…, sched-… and cpupool-… as a user sees them, on one machine of four CPUs; domains with several vCPUs stay paused.

Commands run in this process, for there are many of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from domains.control.operations import List, XenstoreLs
from domains.control.protocol import ControlError
from domains.control.sched_operations import (
    CpupoolCpuRemove,
    CpupoolCreate,
    CpupoolDestroy,
    CpupoolList,
    CpupoolMigrate,
    PoolParams,
    SchedList,
    SchedParams,
    SchedSet,
    SchedSetPool,
    SchedSetVcpus,
    SchedShow,
    SchedShowPool,
    VcpuList,
    VcpuParams,
    VcpuPin,
    VcpuSet,
)
from tests.domains.xenctl.commands import availability, lines_of, make, succeeds, vcpus, xenctl
from tests.machines import Machine, wait_until

CPUS = 4
COMPUTING = """
class Probe(Guest):
    def main(self) -> None:
        while True:
            pass
"""


@pytest.fixture(scope="module")
def lasting() -> Iterator[Machine]:
    machine = Machine(memory=256, options=("--cpus", str(CPUS)))
    try:
        yield machine
    finally:
        machine.stop()


@pytest.fixture
def four(lasting: Machine) -> Iterator[Machine]:
    """Afterwards there are no domains, and all CPUs are in Pool-0."""
    yield lasting
    lasting.end_domains()
    for pool in lasting.ask(CpupoolList())[1:]:
        lasting.ask(CpupoolDestroy(str(pool["id"])))
    xenctl(lasting, "cpupool-cpu-add", "Pool-0", "all")  # those that are there already are named
    assert [pool["cpus"] for pool in lasting.ask(CpupoolList())] == [list(range(CPUS))]
    nodes = lasting.ask(XenstoreLs("/"))
    assert not [node for node in nodes if re.match(r"/local/(pool/[1-9]|domain/[1-9])", node["path"])]


def test_a_domain_gets_the_vcpus_of_its_description_and_their_cpus(four: Machine, tmp_path: Path) -> None:
    make(
        four,
        tmp_path,
        "vcpus = 2\nmaxvcpus = 3",
        'cpus = ["0-2,^1", "3"]\ncpus_soft = "node:0,^0"',
        "cpu_weight = 512\ncap = 150",
    )
    every, rest = [0, 1, 2, 3], [1, 2, 3]
    assert vcpus(four) == [([0, 2], rest), ([3], rest), (every, rest)]
    assert availability(four) == ["online", "online", "offline"]
    (row,) = four.ask(SchedShow("credit2", "two"))
    assert (row["params"]["weight"], row["params"]["cap"]) == (512, 150)
    header, dom0, *shown = lines_of(four, "vcpu-list")
    assert header == ["Name", "ID", "VCPU", "CPU", "State", "Time(s)", "Affinity", "(Hard", "/", "Soft)"]
    assert (dom0[0], dom0[4], dom0[6:]) == ("Domain-0", "r--", ["all", "/", "all"])
    domid = str(four.domain("two")["domid"])
    first, second, third = (line[:4] + line[6:] for line in shown)
    assert first == ["two", domid, "0", "0", "0,2", "/", "1-3"]
    assert second == ["two", domid, "1", "-", "3", "/", "1-3"]
    assert third == ["two", domid, "2", "-", "all", "/", "1-3"]
    assert shown[1][4:6] == ["--p", "0.0"], "it is not up yet"


def test_vcpus_go_online_and_offline_and_stay_so_over_a_restart(four: Machine, tmp_path: Path) -> None:
    make(four, tmp_path, "vcpus = 2\nmaxvcpus = 6")
    off = "offline"
    succeeds(four, "vcpu-set", "two", "4")
    assert availability(four) == ["online"] * 4 + [off] * 2
    assert four.ask(List("two"))[0]["config"]["vcpus"] == 4
    done = xenctl(four, "vcpu-set", "two", "5")
    assert (done.code, done.out) == (1, "")
    assert "4 CPUs" in done.err
    assert "--ignore-host" in done.err
    assert availability(four) == ["online"] * 4 + [off] * 2
    succeeds(four, "vcpu-set", "-i", "two", "6")
    assert availability(four) == ["online"] * 6
    succeeds(four, "vcpu-set", "two", "1")
    assert availability(four) == ["online"] + [off] * 5
    for count, why in ((7, "can have 6"), (0, "at least")):
        with pytest.raises(ControlError, match=why):
            four.ask(VcpuSet("two", count, ignore_host=True))


def test_vcpus_are_pinned_one_by_one_or_all(four: Machine, tmp_path: Path) -> None:
    make(four, tmp_path, "vcpus = 2")
    every = [0, 1, 2, 3]
    for words, expected in (
        (("two", "0", "1-2"), [([1, 2], every), (every, every)]),
        (("two", "all", "-", "3"), [([1, 2], [3]), (every, [3])]),
        (("two", "1", "0,2-3,^2", "all"), [([1, 2], [3]), ([0, 3], every)]),
        (("--force", "two", "0", "all", "nodes:0"), [(every, every), ([0, 3], every)]),
    ):
        assert xenctl(four, "vcpu-pin", *words).code == 0
        assert vcpus(four) == expected
    done = xenctl(four, "vcpu-pin", "two", "0", "1", "2")
    assert "xenctl: warning: vCPU 0" in done.err, "it may not run on the CPUs it should"
    assert vcpus(four)[0] == ([1], [2])


REFUSED: list[tuple[tuple[str, ...], int, str]] = [
    (("vcpu-pin", "two", "2", "0"), 1, "no vCPU 2"),
    (("vcpu-pin", "two", "x", "0"), 2, "'x' is no vCPU"),
    (("vcpu-pin", "two", "0", "^all"), 2, "do not go together"),
    (("vcpu-pin", "two", "0", "3-1"), 2, "ends before it begins"),
    (("vcpu-pin", "two", "0", "zero"), 2, "'zero' is no range"),
    (("vcpu-pin", "two", "0", "17"), 1, "none of its CPUs"),
    (("vcpu-pin", "two", "0", "-"), 2, "name CPUs"),
    (("vcpu-pin", "-f", "two", "all", "0"), 2, "--force"),
    (("vcpu-pin", "nobody", "0", "0"), 3, "no domain 'nobody'"),
    (("vcpu-set", "two", "many"), 2, "many"),
    (("vcpu-list", "two", "nobody"), 3, "no domain 'nobody'"),
    (("sched-credit2", "-w", "5"), 2, "-d"),
    (("sched-credit2", "-d", "two", "-p", "Pool-0"), 2, "do not go together"),
    (("sched-credit2", "-r", "1000"), 2, "-s"),
    (("sched-credit2", "-d", "two", "-w", "0"), 1, "between 1 and 65535"),
    (("sched-credit2", "-d", "two", "-w", "65536"), 1, "between 1 and 65535"),
    (("sched-credit2", "-d", "two", "-w", str(1 << 64)), 2, "64 bits"),
    (("sched-credit2", "-d", "two", "-c", "201"), 1, "between 0 and 200"),
    (("sched-credit2", "-d", "nobody"), 3, "no domain 'nobody'"),
    (("sched-credit2", "-p", "none"), 1, "no CPU pool 'none'"),
    (("sched-credit2", "-s", "-r", "99"), 1, "between 100 and 500000"),
    (("sched-credit",), 1, "no CPU pool of this machine is under credit, but credit2"),
    (("sched-credit", "-d", "two"), 1, "under credit2, not credit"),
    (("sched-credit", "-s", "-t", "5"), 1, "under credit2, not credit"),
    (("sched-rtds", "-d", "two"), 1, "under credit2, not rtds"),
    (("sched-rtds", "-d", "two", "-p", "5", "-b", "4", "-e", "1"), 2, "-v"),
    (("sched-rtds", "-d", "two", "-v", "0", "-p", "5"), 2, "one -p, one -b and one -e"),
    (("sched-rtds", "-v", "0"), 2, "-d"),
    (("sched-rtds", "-d", "two", "-v", "all", "-v", "0"), 2, "-v all"),
    (("sched-bvt", "-d", "two", "-w", "7"), 1, "under credit2, not bvt"),
    (("cpupool-create", "sched=credit2"), 2, "'name' is missing"),
    (("cpupool-create", "name=a", "sched=fair"), 1, "no scheduler 'fair'"),
    (("cpupool-create", "name=a", "cpus=1"), 1, "not free: 1"),
    (("cpupool-create", "name=a", "nodes=0"), 1, "no CPU of these nodes is free"),
    (("cpupool-create", "name=a", "cpus=1-"), 2, "no range"),
    (("cpupool-create", "name=a", "weight=3"), 2, "unknown key 'weight'"),
    (("cpupool-create", "name=Pool-0"), 1, "already"),
    (("cpupool-create", "name=12"), 2, "must not be a number"),
    (("cpupool-destroy", "Pool-0"), 1, "has domains"),
    (("cpupool-destroy", "none"), 1, "no CPU pool 'none'"),
    (("cpupool-rename", "Pool-0", "a b"), 1, "without blanks"),
    (("cpupool-cpu-add", "Pool-0", "2"), 1, "CPU 2 (it is not free)"),
    (("cpupool-cpu-add", "Pool-0", "9"), 1, "names no CPU"),
    (("cpupool-cpu-add", "Pool-0", "a"), 2, "is no list of CPUs"),
    (("cpupool-cpu-remove", "Pool-0", "0"), 1, "CPU 0 stays"),
    (("cpupool-migrate", "two", "none"), 1, "no CPU pool 'none'"),
    (("cpupool-migrate", "nobody", "Pool-0"), 3, "no domain 'nobody'"),
    (("cpupool-numa-split",), 1, "one NUMA node"),
    (("start", "--machine", "other", "--sched", "null", "--slice-ms", "5"), 2, "null has no length"),
    (("start", "--machine", "other", "--sched", "fair"), 2, "no scheduler 'fair'"),
    (("start", "--machine", "other", "--slice-ms", "0"), 2, "slice-ms"),
]


def test_what_cannot_be_is_refused_in_one_line(four: Machine, tmp_path: Path) -> None:
    make(four, tmp_path, "vcpus = 2")
    wrong = []
    for words, code, says in REFUSED:
        done = xenctl(four, *words)
        if (done.code, done.out, len(done.err.splitlines())) != (code, "", 1) or says not in done.err:
            wrong.append((words, done))
    assert wrong == []
    assert vcpus(four) == [([0, 1, 2, 3], [0, 1, 2, 3])] * 2


def test_weights_are_listed_by_pool_and_set(four: Machine, tmp_path: Path) -> None:
    make(four, tmp_path)
    succeeds(four, "sched-credit2", "-d", "two", "-w", "1024", "-c", "50")
    succeeds(four, "sched-credit2", "-s", "-r", "500")
    domid = str(four.domain("two")["domid"])
    expected = ["two", domid, "1024", "50"]
    pool, header, dom0, two = lines_of(four, "sched-credit2")
    assert (pool, header) == (["Cpupool", "Pool-0:", "ratelimit=500us"], ["Name", "ID", "Weight", "Cap"])
    assert (dom0, two) == (["Domain-0", "0", "256", "0"], expected)
    assert lines_of(four, "sched-credit2", "-d", "two") == [header, expected]
    assert lines_of(four, "sched-credit2", "-s", "-p", "0") == [pool]
    four.ask(SchedSetPool("credit2", PoolParams(ratelimit_us=0)))


def test_pools_get_cpus_and_domains(four: Machine, tmp_path: Path) -> None:
    header = ["Name", "CPUs", "Sched", "Active", "Domain", "count"]
    assert lines_of(four, "cpupool-list") == [header, ["Pool-0", "4", "credit2", "y", "1"]]
    succeeds(four, "cpupool-cpu-remove", "Pool-0", "2-3")
    description = tmp_path / "fast"
    description.write_text('sched = "round-robin"\ncpus = ["3"]\n')
    planned = succeeds(four, "cpupool-create", "-n", description, "name=slow")
    assert "cpupool name:   slow" in planned
    assert len(four.ask(CpupoolList())) == 1, "only planned"
    made = succeeds(four, "cpupool-create", description)
    assert made.splitlines()[1:] == [
        "cpupool name:   fast",
        "scheduler:      round-robin",
        "number of cpus: 1",
    ]
    assert lines_of(four, "cpupool-list", "-c") == [["Name", "CPU", "list"], ["Pool-0", "0,1"], ["fast", "3"]]
    make(four, tmp_path, 'pool = "fast"\nvcpus = 2\ncpu_weight = 5')
    (line,) = [line for line in lines_of(four, "list", "-c") if line[0] == "two"]
    assert line[-1] == "fast"
    succeeds(four, "cpupool-cpu-add", "fast", "2")
    with pytest.raises(ControlError, match="domains need it"):
        four.ask(CpupoolCpuRemove("fast", "2-3"))
    (_, fast) = four.ask(CpupoolList())
    assert (len(fast["cpus"]), fast["domains"]) == (1, 1), "one CPU left it, and is free"
    with pytest.raises(ControlError, match="has domains"):
        four.ask(CpupoolDestroy("fast"))
    four.ask(VcpuPin("two", None, str(fast["cpus"][0])))
    succeeds(four, "cpupool-migrate", "two", "Pool-0")
    assert vcpus(four) == [([0, 1, 2, 3], [0, 1, 2, 3])] * 2
    with pytest.raises(ControlError, match="Dom0 stays"):
        four.ask(CpupoolMigrate("0", "fast"))
    succeeds(four, "cpupool-rename", "fast", "quick")
    assert [pool["name"] for pool in four.ask(CpupoolList())] == ["Pool-0", "quick"]
    succeeds(four, "cpupool-destroy", "quick")
    assert four.info()["free_cpus"] == 2


def test_a_domain_that_computes_goes_where_it_is_sent(four: Machine, tmp_path: Path) -> None:
    """Pinned, without the CPU that it was pinned to, and in another pool: it runs there, and goes on."""
    made = four.guest(tmp_path, COMPUTING, name="busy")
    assert made.returncode == 0, made.stderr

    def runs_on(*cpus: int) -> None:
        def goes_on() -> bool:
            (vcpu,) = four.ask(VcpuList(("busy",)))["vcpus"]
            return vcpu["running"] and vcpu["cpu"] in cpus and vcpu["cpu_time"] > before

        (vcpu,) = four.ask(VcpuList(("busy",)))["vcpus"]
        before = vcpu["cpu_time"]
        wait_until(goes_on, what=f"a run on {cpus}")

    for cpu in (3, 1):
        four.ask(VcpuPin("busy", 0, str(cpu)))
        runs_on(cpu)
    four.ask(CpupoolCpuRemove("Pool-0", "1"))
    runs_on(0, 2, 3)
    assert vcpus(four, "busy")[0][0] == [0, 1, 2, 3], "it could run nowhere else"
    four.ask(CpupoolCreate("other", "round-robin", "1"))
    four.ask(CpupoolMigrate("busy", "other"))
    runs_on(1)
    four.ask(CpupoolMigrate("busy", "0"))
    runs_on(0, 2, 3)


def test_a_pool_without_cpus_takes_no_domain(four: Machine, tmp_path: Path) -> None:
    four.ask(CpupoolCreate("empty"))
    make(four, tmp_path)
    with pytest.raises(ControlError, match="has no CPU"):
        four.ask(CpupoolMigrate("two", "empty"))
    text = f'name = "b"\nkernel = "{tmp_path / "kernel"}"\nmemory = 8\npool = "'
    for pool, why in (("empty", "ENODEV"), ("none", "no CPU pool 'none'")):
        done = four.create(tmp_path, text + pool + '"', "--paused")
        assert done.returncode == 1
        assert why in done.stderr
    assert set(four.domains()) == {"Domain-0", "two"}


POOL_PARAMS: dict[str, dict[str, int]] = {
    "credit": {"tslice_ms": 5, "ratelimit_us": 0, "migration_delay_us": 100},
    "credit2": {"ratelimit_us": 2000},
    "bvt": {"ctx_allow_us": 700},
}
PARAMS: dict[str, dict[str, Any]] = {
    "credit": {"weight": 77, "cap": 120},
    "credit2": {"weight": 78, "cap": 20},
    "bvt": {"weight": 300, "warp": True, "warp_value": 50, "warp_limit": 1000, "unwarp": 2000},
}


@pytest.mark.parametrize("scheduler", list(PARAMS))
def test_parameters_are_read_back_under_each_scheduler(four: Machine, tmp_path: Path, scheduler: str) -> None:
    four.ask(CpupoolCpuRemove("0", "3"))
    four.ask(CpupoolCreate("other", scheduler, "3"))
    make(four, tmp_path, 'pool = "other"\nvcpus = 2\ncpu_weight = 99')
    (row,) = four.ask(SchedShow(scheduler, "two"))
    assert row["params"]["weight"] == 99
    four.ask(SchedSet(scheduler, "two", SchedParams(**PARAMS[scheduler])))
    four.ask(SchedSetPool(scheduler, PoolParams(**POOL_PARAMS[scheduler]), "other"))
    (row,) = four.ask(SchedShow(scheduler, "two"))
    assert row["params"].items() >= PARAMS[scheduler].items()
    shown = four.ask(SchedShowPool(scheduler, "other"))["params"]
    assert shown.items() >= POOL_PARAMS[scheduler].items()
    pools = four.ask(SchedList(scheduler, "other"))
    assert [(pool["pool"], [row["name"] for row in pool["rows"]]) for pool in pools] == [("other", ["two"])]
    assert lines_of(four, f"sched-{scheduler}", "-p", "other")[-1][:3] == [
        "two",
        str(row["domid"]),
        str(PARAMS[scheduler]["weight"]),
    ]


def test_rtds_has_parameters_of_vcpus(four: Machine, tmp_path: Path) -> None:
    four.ask(CpupoolCpuRemove("0", "3"))
    four.ask(CpupoolCreate("real", "rtds", "3"))
    make(four, tmp_path, 'pool = "real"\nvcpus = 3\nperiod = 20000\ncpu_weight = 99')
    domid = str(four.domain("two")["domid"])
    words = [
        "-d",
        "two",
        "-v",
        "0",
        "-p",
        "300",
        "-b",
        "150",
        "-e",
        "0",
        "-v",
        "2",
        "-p",
        "100",
        "-b",
        "50",
        "-e",
        "1",
    ]
    succeeds(four, "sched-rtds", *words)
    header = ["Name", "ID", "VCPU", "Period", "Budget", "Extratime"]
    rows = [
        ["two", domid, "0", "300", "150", "no"],
        ["two", domid, "1", "20000", "4000", "yes"],
        ["two", domid, "2", "100", "50", "yes"],
    ]
    assert lines_of(four, "sched-rtds", "-d", "two", "-v", "all") == [header, *rows]
    assert lines_of(four, "sched-rtds", "-d", "two", "-v", "2", "-v", "0") == [header, rows[2], rows[0]]
    assert lines_of(four, "sched-rtds", "-v", "all")[2:] == rows
    assert lines_of(four, "sched-rtds")[-1] == ["two", domid, "10000", "4000", "yes"]
    four.ask(SchedSetVcpus("rtds", "two", (VcpuParams(None, SchedParams(period=500, budget=500)),)))
    assert {tuple(line[3:5]) for line in lines_of(four, "sched-rtds", "-d", "two", "-v", "all")[1:]} == {
        ("500", "500")
    }
    for vcpu, period, budget, why in ((0, 5, 6, "longer"), (0, 0, 1, "between"), (3, 9, 9, "no vCPU 3")):
        wanted = (VcpuParams(vcpu, SchedParams(period=period, budget=budget)),)
        with pytest.raises(ControlError, match=why):
            four.ask(SchedSetVcpus("rtds", "two", wanted))


@pytest.mark.parametrize("scheduler", ["round-robin", "null", "arinc653"])
def test_schedulers_without_parameters_say_so(four: Machine, tmp_path: Path, scheduler: str) -> None:
    four.ask(CpupoolCpuRemove("0", "3"))
    four.ask(CpupoolCreate("other", scheduler, "3"))
    make(four, tmp_path, 'pool = "other"\ncpu_weight = 99\ncap = 10\nextratime = 1')
    with pytest.raises(ControlError, match=f"{scheduler} has no parameters of domains"):
        four.ask(SchedSet(scheduler, "two", SchedParams(weight=5)))
    with pytest.raises(ControlError, match="has no parameters of a pool"):
        four.ask(SchedSetPool(scheduler, PoolParams(tslice_ms=5), "other"))


def test_a_machine_is_started_with_a_scheduler() -> None:
    machine = Machine(memory=64, options=("--cpus", "1", "--sched", "credit", "--slice-ms", "5"))
    try:
        info = machine.info()
        assert (info["xen_scheduler"], info["nr_cpus"], info["free_cpus"]) == ("credit", 1, 0)
        assert "xen_scheduler         : credit\n" in succeeds(machine, "info")
        assert "tslice=5ms" in succeeds(machine, "sched-credit", "-s")
        assert xenctl(machine, "sched-credit2").code == 1
    finally:
        machine.stop()
