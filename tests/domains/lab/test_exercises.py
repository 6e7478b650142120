"""Exercises: the template fails, a solution passes, and each mistake is told by the check that is about it."""

from pathlib import Path

import pytest

from domains.lab.exercises import student
from domains.lab.exercises.exercise import begin, exercise
from domains.lab.image import SOURCES, LabError

FAULT = (SOURCES / "fault.c").read_text()
VALIDATE = """
class Refused(Exception): ...
def validate_l1e(entry, frames):
    if not entry & 1:
        return "nothing"
    frame = frames.get(entry >> 12)
    if frame is None or frame.owner != "guest":
        raise Refused
    if not entry & 2:
        return "read"
    if frame.type != "writable" and frame.type_uses:
        raise Refused
    return "write"
"""


def missing(name: str, file: Path) -> list[str]:
    """What the checks complain about."""
    return [f"{check.what}: {check.missing}" for check in exercise(name).check(file) if check.missing]


@pytest.mark.parametrize(("name", "solution"), [("page-fault", FAULT), ("validate-l1", VALIDATE)])
def test_a_solution_passes_and_the_template_does_not(name: str, solution: str, tmp_path: Path) -> None:
    template, done = tmp_path / "template", tmp_path / ("done.c" if name == "page-fault" else "done.py")
    done.write_text(solution)
    assert missing(name, done) == []
    template = template.with_suffix(done.suffix)
    begin(exercise(name), template)
    assert missing(name, template)
    with pytest.raises(LabError, match="File exists"):
        begin(exercise(name), template)


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("clear_page(page);", "", "such a page is empty, on bare hardware"),
        ("copy_page(copy, page);", "", "after a fork"),
        ("free_page(page);", "", "users_of(page) is wrong"),
        ("*users_of(page) > 1", "1", "the last of those"),
        ("old & COPY_ON_WRITE", "1", "read-only for good"),
        ("set_entry(va, entry_of(page, PRESENT | WRITE | USER), 0);", "", "does not come to an end"),
        ("set_entry(va, entry_of(page, PRESENT", "*entry_at(va) = (entry_of(page, PRESENT", "on Xen"),
    ],
)
def test_mistakes_of_a_page_fault_handler(right: str, wrong: str, complaint: str, tmp_path: Path) -> None:
    assert right in FAULT
    file = tmp_path / "fault.c"
    text = FAULT.replace(right, wrong)
    file.write_text(text.replace("USER), 0);", "USER));") if "*entry_at(va) = (" in wrong else text)
    (found,) = missing("page-fault", file)
    assert complaint in found


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        (" and frame.type_uses", "", "a page that was a page table, to write"),
        ('frame.type != "writable" and frame.type_uses', "False", "a page table (l1), to write"),
        (' or frame.owner != "guest"', "", "another domain's frame, to read"),
        ("frame is None or ", "", "AttributeError"),
    ],
)
def test_mistakes_of_a_validation(right: str, wrong: str, complaint: str, tmp_path: Path) -> None:
    assert right in VALIDATE
    file = tmp_path / "validate.py"
    file.write_text(VALIDATE.replace(right, wrong))
    assert any(complaint in line for line in missing("validate-l1", file))


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("while True: pass", "does not come to an end"),
        ("import sys; sys.exit(0)", "exit status 0"),
        ("import os; os._exit(3)", "exit status 3"),
        ("import os; os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("raise KeyboardInterrupt", "ended by itself"),
    ],
)
def test_a_function_that_does_not_return(
    body: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if body.startswith("while"):  # the others end by themselves, on a busy host late
        monkeypatch.setattr(student, "SECONDS", 3)
    file = tmp_path / "validate.py"
    file.write_text(f"class Refused(Exception): ...\ndef validate_l1e(entry, frames):\n    {body}\n")
    with pytest.raises(LabError, match=complaint):
        missing("validate-l1", file)


def test_what_cannot_be_tried(tmp_path: Path) -> None:
    for name, text, complaint in (
        ("page-fault", "nonsense", "gcc cannot build"),
        ("validate-l1", "def", "SyntaxError"),
        ("validate-l1", "x = 1", "must have a function"),
    ):
        file = tmp_path / ("broken.c" if name == "page-fault" else "broken.py")
        file.write_text(text)
        with pytest.raises(LabError, match=complaint):
            missing(name, file)
    with pytest.raises(LabError, match="there is no exercise"):
        exercise("none")
