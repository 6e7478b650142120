"""YAML text as plain data, with the place of every key and value in it.

YAML 1.1 as PyYAML reads it, without tags of Python's; a key given twice is an error, and aliases may not make a
document grow beyond MAX_NODES.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import yaml

MAX_TEXT: Final = 4 << 20
MAX_NODES: Final = 200_000
MAX_DEPTH: Final = 32

Path = tuple[str | int, ...]
"""Keys and indices from the document's top."""


class Place(NamedTuple):
    """Line and column, both from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: with the value at `path`, or with its key."""

    path: Path
    message: str
    at_key: bool = False


@dataclass
class Document:
    """Plain data and where it stands."""

    data: Any = None
    values: dict[Path, Place] = field(default_factory=dict)
    """Empty if the data was not read from a text."""
    keys: dict[Path, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, problem: Problem) -> Place:
        """Where a problem is; for what is not in the text, where the nearest thing around it is."""
        path = problem.path
        if problem.at_key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, Place(1, 1))


def read_yaml(text: str) -> Document:
    """The document in `text`; what is wrong with it as YAML is among its problems."""
    document = Document(values={(): Place(1, 1)})
    if len(text) > MAX_TEXT:
        document.problems.append(Problem((), f"longer than {MAX_TEXT} characters; this is no topology"))
        return document
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            document.data = Reader(document).value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        document.values[()] = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        document.problems.append(Problem((), one_line(error.problem or error.context or "not YAML")))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        document.problems.append(Problem((), f"not YAML: {one_line(str(error))}"))
    return document


class Reader:
    """Turns nodes into data, and notes their places."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._constructor = yaml.SafeLoader("")
        self._left = MAX_NODES

    def value(self, node: yaml.Node, path: Path) -> Any:
        """The node as plain data, its place noted under `path`. ValueError: too many values, or too deep."""
        self._left -= 1
        if self._left < 0 or len(path) > MAX_DEPTH:
            raise ValueError(f"more than {MAX_NODES} values, or nested more than {MAX_DEPTH} deep")
        self._document.values[path] = place_of(node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._constructor.construct_object(node, deep=True)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            where = (*path, str(key))
            self._document.keys[where] = place_of(key_node)
            if key is None:
                self._document.values[where] = place_of(key_node)
                self._document.problems.append(Problem(where, "a key must be a plain text"))
            elif key in found:
                self._document.problems.append(Problem(where, f"'{key}' is given twice", at_key=True))
            else:
                found[key] = self.value(value_node, where)
        return found


def place_of(node: yaml.Node) -> Place:
    """Line and column of a node, both counted from 1."""
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def one_line(text: str) -> str:
    """The text with every run of white space as one blank."""
    return " ".join(text.split())
