"""Limits of size, and docstrings: functions, classes and files stay small, and what is public says what it means."""

import ast
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from tests.machines import REPOSITORY

FOLDERS = ("hypervisor", "domains", "drivers", "scripts", "tests")
MAX_FUNCTION = 45
MAX_FILE = 400
MAX_CLASS = 250

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def sources(*folders: str) -> Iterator[tuple[str, str]]:
    """The path within the repository and the text of every Python file in these folders."""
    for folder in folders:
        for file in sorted((REPOSITORY / folder).rglob("*.py")):
            yield str(file.relative_to(REPOSITORY)), file.read_text()


class Outline(NamedTuple):
    """What is asked of a module here. Its syntax tree is not kept: a thousand trees are a long walk for the garbage collector."""

    sizes: list[tuple[str, bool, int]]
    """Of each definition the name, whether it is a class, and its lines."""
    without_docstring: list[str]
    """Public names."""


@cache
def outline(text: str) -> Outline:
    """Of a module, made once for all tests."""
    tree = ast.parse(text)
    return Outline(
        [(node.name, isinstance(node, ast.ClassDef), lines(node)) for node in definitions(tree)],
        [name for name, node in public_names(tree) if not ast.get_docstring(node)],
    )


def definitions(node: ast.AST) -> Iterator[Definition]:
    """All classes and functions below `node`, which only statements can hold: most of a tree is expressions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            yield child
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from definitions(child)


def lines(node: Definition) -> int:
    """How many lines a class or function takes, without its decorators."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def public_names(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """The public classes, functions and methods of a module or class, each with its name in the module."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition) and not child.name.startswith("_") and not is_setter(child):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public_names(child, f"{prefix}{child.name}.")


def is_setter(node: Definition) -> bool:
    """Whether it is the second half of a property, whose first half has the docstring."""
    return any(isinstance(mark, ast.Attribute) and mark.attr == "setter" for mark in node.decorator_list)


def test_no_file_is_long() -> None:
    long = {
        path for path, text in sources(*FOLDERS) if len(text.splitlines()) > MAX_FILE and not abi_table(path)
    }
    assert not long


def test_no_function_is_long() -> None:
    long = [
        f"{path}: {name}, {size} lines"
        for path, text in sources(*FOLDERS)
        for name, is_class, size in outline(text).sizes
        if not is_class and size > MAX_FUNCTION
    ]
    assert not long


def test_no_class_is_large() -> None:
    large = {
        name
        for path, text in sources(*FOLDERS)
        if not abi_table(path)
        for name, is_class, size in outline(text).sizes
        if is_class and size > MAX_CLASS
    }
    assert not large


def test_every_public_name_says_what_it_means() -> None:
    missing = [
        f"{path}: {name}"
        for path, text in sources("hypervisor", "domains", "drivers", "scripts")
        for name in outline(text).without_docstring
    ]
    assert not missing


def test_the_judge_sees_a_public_name_without_docstring() -> None:
    text = 'class Ring:\n    """A ring."""\n    def push(self): ...\n    def _grow(self): ...\ndef open_ring(): ...\n'
    assert outline(text).without_docstring == ["Ring.push", "open_ring"]


def abi_table(path: str) -> bool:
    """Whether a file declares Xen's ABI: such tables are as long as Xen's headers."""
    return path.startswith("hypervisor/public/")
