"""What is told of a topology to people and their tools: pictures, and the JSON Schema for editors."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from jsonschema import Draft202012Validator

from domains.xenctl.topology import Topology, load
from domains.xenctl.topology.graph import graphviz, mermaid, picture_of
from domains.xenctl.topology.schema import schema_text
from tests.machines import REPOSITORY

SHOP = REPOSITORY / "docs/examples/shop.yaml"
SCHEMA = REPOSITORY / "docs/topology.schema.json"
IDLE = "python:domains.guests.idle:Idle"


def topology(text: str) -> Topology:
    return Topology.model_validate(yaml.safe_load(text))


def test_both_pictures_show_every_node_and_every_edge_once() -> None:
    shop = load(SHOP).topology
    picture = picture_of(shop)
    assert len(picture.nodes) == len(shop.domains) + len(shop.networks) + len(shop.disks)
    for text, edge in ((mermaid(picture), r"-\.?-[->]"), (graphviz(picture), "->")):
        found = re.findall(rf"^  (\w+) {edge} (\w+)", text, re.MULTILINE)
        assert sorted(found) == sorted((e.start, e.end) for e in picture.edges)
        for id_, node in picture.nodes.items():
            assert len(re.findall(rf'^  {id_}\W.*"{node.label}"', text, re.MULTILINE)) == 1


def test_what_comes_after_one_replica_is_drawn_after_all_of_them() -> None:
    text = f"domains: {{a: {{kernel: '{IDLE}', replicas: 2}}, b: {{kernel: '{IDLE}', after: [a-2]}}}}"
    (edge,) = picture_of(topology(text)).edges
    assert (edge.kind, edge.start, edge.end) == ("after", "domain0", "domain1")


def test_the_published_schema_is_the_models() -> None:
    assert SCHEMA.read_text() == schema_text(), (
        "python -m domains.xenctl.topology.schema > docs/topology.schema.json"
    )


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (SHOP.read_text(), True),
        (
            f"networks: {{n: }}\ndomains: {{a: {{kernel: '{IDLE}', networks: [n], wait: console login}}}}",
            True,
        ),
        (
            f"domains: {{a: {{kernel: '{IDLE}', disks: [d, {{size: 5}}, {{size: 5MiB}}], wait: shutdown}}}}",
            True,
        ),
        (f"domains: {{a: {{kernel: '{IDLE}', memroy: 5}}}}", False),
        (f"domains: {{a: {{kernel: '{IDLE}', memory: '5'}}}}", False),
        (f"domains: {{a: {{kernel: '{IDLE}', wait: soon}}}}", False),
        (f"domains: {{5th: {{kernel: '{IDLE}'}}}}", False),
        ("domains: {a: {}}", False),
        ("domains: {}", False),
        ("{}", False),
    ],
)
def test_an_editor_with_the_schema_says_what_validate_says(text: str, valid: bool) -> None:
    """An independent reader of JSON Schema agrees with the model."""
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    assert Draft202012Validator(schema).is_valid(yaml.safe_load(text)) is valid
    try:
        topology(text)
    except ValueError:
        assert not valid
    else:
        assert valid
