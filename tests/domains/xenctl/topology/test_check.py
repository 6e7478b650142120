"""Everything that can be wrong with a topology is told with its line and column, and nothing else is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.control.protocol import ControlError
from domains.dom0.toolstack.xlcfg.load import KEYS, config_of
from domains.xenctl.topology import Domain, Topology, TopologyError, load
from domains.xenctl.topology.check import Project
from domains.xenctl.topology.expand import XL_KEYS
from tests.machines import REPOSITORY

IDLE = "python:domains.guests.idle:Idle"
GOOD = f"""\
networks:
  lan: {{subnet: 10.0.0.0/29}}
  dark:
disks:
  data: {{size: 1MiB}}
domains:
  web:
    replicas: 2
    kernel: {IDLE}
    networks: [lan, dark]
    extra: "${{name}} ${{index}} ${{ip.lan}} of $$2"
  client:
    kernel: {IDLE}
    memory: 16
    networks: [{{network: lan, ip: 10.0.0.1}}]
    extra: http://${{web-${{index}}.ip.lan}}/
    disks: [{{disk: data, access: ro}}, {{size: 2MiB, vdev: xvdq}}]
    after: [web]
    on_crash: preserve
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "net.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str) -> list[str]:
    """What is wrong, without the file's name."""
    path = write(folder, text)
    with pytest.raises(TopologyError) as caught:
        load(path)
    assert all(line.startswith(f"{path}:") for line in caught.value.lines)
    assert all("\n" not in line for line in caught.value.lines)
    return [line.removeprefix(f"{path}:") for line in caught.value.lines]


def settings(folder: Path, text: str) -> dict[str, dict[str, Any]]:
    """The descriptions of all domains, read back."""
    plan = load(write(folder, text)).plan()
    return {name: vars(config_of(p.settings, name, folder)) for name, p in plan.domains.items()}


def test_replicas_addresses_and_placeholders_are_counted_out(tmp_path: Path) -> None:
    found = settings(tmp_path, GOOD)
    assert list(found) == ["web-1", "web-2", "client"]
    assert found["web-1"]["cmdline"] == "web-1 1 10.0.0.2 of $2"
    assert found["web-2"]["cmdline"] == "web-2 2 10.0.0.3 of $2"
    assert found["client"]["cmdline"] == "http://10.0.0.2/"
    assert found["client"]["on_crash"] == "preserve"
    lan, dark = found["web-2"]["vifs"]
    assert (lan.bridge, lan.ip, dark.bridge, dark.ip) == ("lan", "10.0.0.3/29", "dark", None)
    assert [disk.vdev for disk in found["client"]["disks"]] == ["xvda", "xvdq"]


def test_mac_addresses_are_unique_xens_and_always_the_same(tmp_path: Path) -> None:
    macs = [plug.mac for p in load(write(tmp_path, GOOD)).plan().domains.values() for plug in p.plugs]
    again = [plug.mac for p in load(write(tmp_path, GOOD)).plan().domains.values() for plug in p.plugs]
    assert macs == again
    assert len(set(macs)) == 5
    assert all(mac.startswith("00:16:3e:") and int(mac[9:11], 16) < 0x80 for mac in macs)


def test_any_change_of_a_description_changes_its_fingerprint_and_no_others(tmp_path: Path) -> None:
    before = load(write(tmp_path, GOOD)).plan().domains
    after = load(write(tmp_path, GOOD.replace("memory: 16", "memory: 17"))).plan().domains
    changed = [name for name in before if before[name].fingerprint != after[name].fingerprint]
    assert changed == ["client"]


def test_every_key_of_a_domain_description_may_be_used() -> None:
    assert set(XL_KEYS) == set(KEYS) - {"name"}


def test_relative_paths_start_at_the_topologys_folder(tmp_path: Path) -> None:
    (tmp_path / "guest.py").write_text("")
    (tmp_path / "disk.img").write_bytes(bytes(512))
    text = "domains: {a: {kernel: 'python:./guest.py:G', disks: [{file: disk.img}]}}"
    found = settings(tmp_path, text)["a"]
    assert found["kernel"] == f"python:{tmp_path}/guest.py:G"
    assert found["disks"][0].target == str(tmp_path / "disk.img")


def test_the_example_has_no_mistakes_and_twenty_domains() -> None:
    project = load(REPOSITORY / "docs/examples/shop.yaml")
    assert project.name == "shop"
    assert len(project.plan().domains) == 20


def test_a_topology_made_in_python_is_checked_as_one_from_a_file(tmp_path: Path) -> None:
    topology = Topology(domains={"a": Domain(kernel=IDLE, after=["b"])})
    with pytest.raises(TopologyError, match=r"topology: domains\.a\.after\.0: there is no domain 'b'"):
        Project(topology, "t", tmp_path).plan()


ONE = f"domains:\n  a: {{kernel: {IDLE}, "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["a topology must have keys and values"]),
        ("¦- a\n", ["a topology must have keys and values"]),
        ("domains: ¦{}\n", ["domains: Dictionary should have at least 1 item"]),
        ("¦name: x\n", ["'domains' is missing"]),
        ("domains:\n  a: ¦{}\n", ["'kernel' is missing"]),
        ("domains:\n  a:¦\n", ["a must have keys and values"]),
        (ONE + "¦memroy: 5}", ["unknown key 'memroy'; did you mean 'memory'?"]),
        (
            f"¦domians: {{}}\ndomains: {{a: {{kernel: {IDLE}}}}}",
            ["unknown key 'domians'; did you mean 'domains'?"],
        ),
        (
            f"machine: {{memory: ¦5, ¦cpu: 2}}\ndomains: {{a: {{kernel: {IDLE}}}}}",
            [
                "memory: Input should be greater than or equal to 32",
                "unknown key 'cpu'; did you mean 'cpus'?",
            ],
        ),
        (ONE + "memory: ¦lots}", ["memory: Input should be a valid integer"]),
        (ONE + "memory: ¦'5'}", ["memory: Input should be a valid integer"]),
        (ONE + "on_crash: ¦explode}", ["on_crash: Input should be 'destroy', 'restart'"]),
        (
            ONE + "networks: [{network: lan, ¦netwrok: x}]}",
            ["unknown key 'netwrok'; did you mean 'network'?"],
        ),
        (f"domains:\n  ¦5th: {{kernel: {IDLE}}}", ["'5th' is no name"]),
        (f"domains:\n  a: {{kernel: {IDLE}}}\n  ¦a: {{kernel: {IDLE}}}", ["'a' is given twice"]),
        ("domains: [\n¦", ["expected the node content"]),
        ("domains: {a: b\n¦", ["expected ',' or '}'"]),
        ("a: b¦: c\n", ["mapping values are not allowed here"]),
        ("¦a: \x07\n", ["not YAML: unacceptable character"]),
        ("¦¦a: !!python/object:os.system {}\n", ["'domains' is missing", "unknown key 'a'"]),
        (ONE + "networks: [¦lan]}", ["there is no network 'lan'"]),
        (ONE + "disks: [¦d]}", ["there is no disk 'd'"]),
        (ONE + "after: [¦b]}", ["there is no domain 'b'"]),
        (ONE + "after: ¦[a]}", ["domains wait in a circle: a after a"]),
        (
            ONE + f"after: ¦[b]}}\n  b: {{kernel: {IDLE}, after: [a]}}",
            ["domains wait in a circle: a after b after a"],
        ),
        (ONE + f"replicas: 2}}\n  ¦a-1: {{kernel: {IDLE}}}", ["there are two domains called 'a-1'"]),
        (
            f"networks: {{lan: {{subnet: ¦nonsense}}}}\ndomains: {{a: {{kernel: {IDLE}}}}}",
            ["Expected 4 octets in 'nonsense'"],
        ),
        (
            "networks: {lan: {subnet: 10.0.0.0/30}}\n" + ONE + "replicas: 3, networks: [¦lan]}",
            ["10.0.0.0/30 has no address left"],
        ),
        (
            "networks: {lan: {subnet: 10.0.0.0/24}}\n"
            + ONE
            + "replicas: 2, networks: [¦{network: lan, ip: 10.0.0.5}]}",
            ["10.0.0.5 is given twice"],
        ),
        (
            "networks: {lan: {subnet: 10.0.0.0/24}}\n" + ONE + "networks: [¦{network: lan, ip: 10.1.0.5}]}",
            ["10.1.0.5 is not in 10.0.0.0/24"],
        ),
        (
            "networks: {lan: {subnet: 10.0.0.0/24, uplink: ¦10.1.0.5}}\n" + ONE + "networks: [lan]}",
            ["10.1.0.5 is not in 10.0.0.0/24"],
        ),
        (
            "networks: {lan: {uplink: ¦everywhere}}\n" + ONE + "networks: [lan]}",
            ["'everywhere' is no IPv4 address, such as 10.0.0.1 or 10.0.0.1/24"],
        ),
        ("networks: {lan: {vxlan: ¦{peers: [10.0.0.2]}}}\n" + ONE + "networks: [lan]}", ["'vni' is missing"]),
        (
            "networks: {lan: {vxlan: {vni: ¦0}}}\n" + ONE + "networks: [lan]}",
            ["vni: Input should be greater"],
        ),
        (
            "networks: {lan: {vxlan: {vni: 42, ¦ports: 1}}}\n" + ONE + "networks: [lan]}",
            ["unknown key 'ports'; did you mean 'port'?"],
        ),
        (
            "networks: {lan: {vxlan: {vni: 42, peers: [10.0.0.2, ¦there]}}}\n" + ONE + "networks: [lan]}",
            ["'there' is no IP address, such as 10.0.0.2 or fd00::2"],
        ),
        (
            "networks: {lan: {vxlan: {vni: 42, peers: ¦[10.0.0.2, '[fd00::2]:1']}}}\n"
            + ONE
            + "networks: [lan]}",
            ["peers are of IPv4 or of IPv6, not some of each"],
        ),
        (
            "networks: {lan: {vxlan: {vni: 42, local: ¦here}}}\n" + ONE + "networks: [lan]}",
            ["'here' is no IP address"],
        ),
        (
            "networks: {lan: {vxlan: {vni: 42}}, wan: {vxlan: {vni: ¦42}}}\n" + ONE + "networks: [lan]}",
            ["networks lan and wan have one VNI, 42"],
        ),
        (
            "networks: {lan: {vxlan: {vni: 1}}, wan: {bridge: lan, vxlan: ¦{vni: 2}}}\n"
            + ONE
            + "networks: [lan]}",
            ["networks lan and wan connect one bridge, lan, twice"],
        ),
        (
            "networks: {lan: {vxlan: {vni: 42}}}\n" + ONE + "networks: [{network: lan, mtu: ¦1451}]}",
            ["an MTU of 1451 is too large for lan, which takes 1450"],
        ),
        (ONE + "vif: ¦[mac=5]}", ["vif: '5' is no MAC address"]),
        (ONE + "cmdline: ¦'${ip.lan}'}", ["${ip.lan} stands for nothing here"]),
        (ONE + "memory: 9, maxmem: ¦8}", ["maxmem 8 is less than memory 9"]),
        (ONE + "type: ¦pvhh}", ["type is 'pv' or 'pvh', not 'pvhh'"]),
        (
            ONE.replace("kernel: ", "kernel: ¦") + "type: ¦hvm}",
            ["kernel of an HVM domain is started by a device model", "type 'hvm' needs a device model"],
        ),
        ("domains:\n  a: {kernel: ¦python:nonsense}", ["kernel must be python:package.module:Class"]),
        ("domains:\n  a: {kernel: ¦/nonexistent/vmlinuz}", ["kernel /nonexistent/vmlinuz does not exist"]),
        ("domains:\n  a: {kernel: ¦'python:./no.py:C'}", ["kernel /"]),
        (ONE + "ramdisk: ¦/no/r}", ["ramdisk /no/r does not exist"]),
        (ONE + "disks: [¦{file: /no/d}]}", ["disk /no/d does not exist"]),
        (ONE + "disks: [¦{copy: /no/d}]}", ["/no/d does not exist"]),
        (ONE + "disks: [¦{vdev: xvda}]}", ["disks: a domain's disk has one of"]),
        (ONE + "disks: [{size: ¦1 lot}]}", ["size: '1 lot' is no size, such as 64MiB"]),
        (
            ONE + "disks: ¦[{size: 1MiB, vdev: xvdb}, {size: 2, vdev: xvdb}]}",
            ["disk: vdev 'xvdb' is used twice"],
        ),
        (
            "disks: {d: {size: 1MiB}}\n" + ONE + "replicas: 2, disks: [¦d]}",
            ["a-1 and a-2 share a disk that one of them writes"],
        ),
        (
            f"disks: {{d: ¦{{file: x, size: 5}}}}\ndomains: {{a: {{kernel: {IDLE}}}}}",
            ["d: a disk with 'file'"],
        ),
        (f"disks: {{d: ¦{{path: x}}}}\ndomains: {{a: {{kernel: {IDLE}}}}}", ["d: 'path' says where"]),
        (ONE + "wait: ¦soon}", ["until: Input should be 'running'"]),
        (ONE + "wait: {timeout: ¦0}}", ["timeout: Input should be greater than 0"]),
        (ONE + "wait: ¦{until: console}}", ["wait: 'until: console' and 'console: TEXT' belong together"]),
        (
            "machine: {memory: ¦100}\n" + ONE + "memory: 100}",
            ["the domains and Dom0 need 165 MiB, the machine has 100"],
        ),
    ],
)
def test_a_mistake_is_told_with_its_line_and_column(text: str, expected: list[str], tmp_path: Path) -> None:
    """A bar stands before each place that must be named."""
    places = []
    for mark in re.finditer("¦", text):
        before = text[: mark.start()].replace("¦", "")
        places.append((before.count("\n") + 1, len(before) - before.rfind("\n")))
    found = [line.split(":", 2) for line in problems(tmp_path, text.replace("¦", ""))]
    told = [(int(line), int(column)) for line, column, _ in found]
    assert told == (places or [(1, 1)])
    for (_, _, message), part in zip(found, expected, strict=True):
        assert message.strip().startswith(part)


def test_aliases_that_would_grow_beyond_all_bounds_are_refused(tmp_path: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert "more than" in problems(tmp_path, "\n".join(rows))[0]
    assert "nested" in problems(tmp_path, "a: &a [*a]")[0]


def test_a_file_that_cannot_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match=r"cannot read .*/no\.yaml"):
        load(tmp_path / "no.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff")
    with pytest.raises(TopologyError, match="not UTF-8"):
        load(tmp_path / "latin.yaml")


@given(st.text(alphabet=st.sampled_from("adk:{}[]-&*!|>'\"#\n ,xyz01\t\\"), max_size=80))
def test_any_text_is_a_topology_or_has_a_place(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    assert problems(tmp_path_factory.getbasetemp(), text)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ("from_snapshot: ready, memory: 64", "leave 'memory' out"),
        ("from_snapshot: ready, disks: [data]", "leave 'disks' out"),
        (f"from_snapshot: ready, kernel: {IDLE}", "leave 'kernel' out"),
        ("from_snapshot: 'a b'", "should match pattern"),
        ("from_snapshot: ready, networks: [nowhere]", "there is no network 'nowhere'"),
        ("memory: 64", "'kernel' is missing"),
    ],
)
def test_a_domain_from_a_snapshot_is_as_it_was(tmp_path: Path, keys: str, why: str) -> None:
    text = f"networks: {{lan: }}\ndisks: {{data: {{size: 1MiB}}}}\ndomains:\n  web: {{{keys}}}\n"
    (line,) = problems(tmp_path, text)
    assert why in line


def test_a_domain_from_a_snapshot_has_interfaces_of_its_own(tmp_path: Path) -> None:
    text = "networks: {lan: {subnet: 10.0.0.0/29}}\ndomains:\n  web: {replicas: 2, from_snapshot: ready, networks: [lan]}\n"
    plan = load(write(tmp_path, text)).plan()
    assert [one.snapshot for one in plan.domains.values()] == ["ready", "ready"]
    macs = {str(one.settings["vif"]) for one in plan.domains.values()}
    assert len(macs) == 2
    other = load(write(tmp_path, text.replace("ready", "other"))).plan()
    assert plan.domains["web-1"].fingerprint != other.domains["web-1"].fingerprint
