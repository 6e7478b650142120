"""The rules of docs/invariants.md and the code that cites them do not drift apart."""

import re

from tests.machines import REPOSITORY

RULE = re.compile(r"\b([DEFGHKMPQSTUVX])(\d{1,2})\b")
RANGE = re.compile(r"\b([DEFGHKMPQSTUVX])(\d{1,2})[–-]\1?(\d{1,2})\b")
NOT_RULES = {"U32", "U64"}


def cited(*folders: str) -> set[str]:
    """All rule numbers in the Python files of these folders, ranges written out."""
    found = set()
    for folder in folders:
        for file in (REPOSITORY / folder).rglob("*.py"):
            text = file.read_text()
            found |= {letter + number for letter, number in RULE.findall(text)}
            for letter, first, last in RANGE.findall(text):
                found |= {f"{letter}{number}" for number in range(int(first), int(last) + 1)}
    return found - NOT_RULES


def test_every_cited_rule_is_written_down_and_every_rule_is_cited() -> None:
    rules = set(
        re.findall(r"^\* \*\*([A-Z]\d+)\*\* ", (REPOSITORY / "docs" / "invariants.md").read_text(), re.M)
    )
    assert len(rules) == 110
    assert cited("hypervisor", "domains", "drivers", "tests") == rules
