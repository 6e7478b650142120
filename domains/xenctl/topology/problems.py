"""A YAML file that a user wrote, read for a pydantic model, and what is wrong with it in our words, each with its place."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from domains.control.files import read_at_most
from domains.control.protocol import ControlError, Exit
from domains.xenctl.topology.source import MAX_TEXT, Document, Path, Problem, one_line, read_yaml

M = TypeVar("M", bound=BaseModel)


def read_document(file: FilePath, refused: Callable[[list[str]], ControlError]) -> Document:
    """The file as data; what is wrong with it as YAML is among its problems. Raises ControlError if it cannot be read, and what
    `refused` makes of a line about a file that is no text.
    """
    try:
        text = read_at_most(file, MAX_TEXT)
    except OSError as error:
        raise ControlError(Exit.FAILURE, f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise refused([f"{file}:1:1: not UTF-8: {error.reason}"]) from None
    return read_yaml(text)


def validated(
    document: Document, model: type[M], whole: str, known_keys: Callable[[Path], list[str]]
) -> tuple[M | None, list[Problem]]:
    """The document as a `model`; None, and what is wrong with it, if it is none. `whole`, `known_keys`: see `problem_of`."""
    if document.problems:
        return None, list(document.problems)
    try:
        return model.model_validate(document.data), []
    except ValidationError as error:
        return None, [problem_of(row, whole, known_keys) for row in error.errors()]


def located(problems: list[Problem], document: Document, file: str) -> list[str]:
    """One line a problem, in the file's order."""
    if not document.values:
        return [f"{file}: {dotted(problem.path)}{problem.message}" for problem in problems]
    rows = sorted((document.place(problem), problem.message) for problem in problems)
    return [f"{file}:{place.line}:{place.column}: {message}" for place, message in rows]


def dotted(path: Path) -> str:
    """The place in the document, as `domains.web.memory: `; nothing for the whole."""
    return ".".join(map(str, path)) + (": " if path else "")


def problem_of(error: Any, whole: str, known_keys: Callable[[Path], list[str]]) -> Problem:
    """A validation error as a problem with our words. `whole`: what the document is, "a topology"; `known_keys(path)`: the keys
    that the part at a path may have.
    """
    path: Path = tuple(part for part in error["loc"] if part != "[key]")
    kind, last = error["type"], next((part for part in reversed(path) if isinstance(part, str)), "")
    if path != error["loc"]:
        return Problem(path, f"'{last}' is no name: a letter, then up to 31 letters, digits, - and _", True)
    if kind == "missing":
        return Problem(path[:-1], f"'{last}' is missing")
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(last, known_keys(path[:-1]), n=1)
        return Problem(path, f"unknown key '{last}'" + (f"; did you mean '{near[0]}'?" if near else ""), True)
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return Problem(path, f"{last or whole} must have keys and values")
    message = one_line(str(error["msg"])).removeprefix("Value error, ")
    if message.endswith("is missing"):
        return Problem(path, message)
    return Problem(path, f"{last}: {message}" if last else message)
