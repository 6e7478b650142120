"""Typed records and their plain form, which msgpack carries: the one place where what arrives is checked.

A record is a frozen dataclass. Its fields' annotations say everything that is checked: the type, and in `Annotated`
the range of a number, the length of a text, or a pattern. A record may check more in `__post_init__`.

    record    {field: value, …}; a field with a default may be missing, one that is not known may not be there
    tuple     a list        enumeration, UUID    their text        None, bool, int, float, str, bytes    themselves
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints
from uuid import UUID


class Malformed(ValueError):
    """What arrived is no such record; `str()` is one line that names the field."""


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included."""

    low: float
    high: float

    def check(self, value: Any) -> str | None:
        """Why a number is refused, or None."""
        return None if self.low <= value <= self.high else f"must lie between {self.low} and {self.high}"


@dataclass(frozen=True)
class Length:
    """At most so many items; of a text so many bytes in UTF-8, and no NUL among them."""

    most: int

    def check(self, value: Any) -> str | None:
        """Why a text or tuple is refused, or None."""
        if isinstance(value, str):
            if "\0" in value:
                return "contains a NUL character"
            value = value.encode("utf-8", "replace")
        return None if len(value) <= self.most else f"is longer than {self.most}"


@dataclass(frozen=True)
class Matches:
    """A text that has this form as a whole."""

    pattern: re.Pattern[str]

    def check(self, value: Any) -> str | None:
        """Why a text is refused, or None."""
        return None if self.pattern.fullmatch(value) else "has not the right form"


def encode(value: Any) -> Any:
    """The plain form of a record, or of what a record may contain."""
    if is_dataclass(value):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, UUID) else value


def decode(kind: Any, plain: Any, name: str = "the value") -> Any:
    """The value of the annotated type `kind` that `plain` is the form of. Raises Malformed; `name` is what it is
    called in the message.
    """
    origin = get_origin(kind)
    if origin is Annotated:
        base, *bounds = get_args(kind)
        return checked(decode(base, plain, name), bounds, name)
    if origin in (Union, UnionType):
        return decode_union(get_args(kind), plain, name)
    if origin is tuple:
        if not isinstance(plain, list | tuple):
            raise Malformed(f"{name} must be a list")
        return tuple(decode(get_args(kind)[0], item, f"{name}[{n}]") for n, item in enumerate(plain))
    if is_dataclass(kind):
        return decode_record(kind, plain, name)
    return decode_scalar(kind, plain, name)


def checked(value: Any, bounds: list[Any], name: str) -> Any:
    """The value, if it keeps all its bounds. Raises Malformed."""
    for bound in bounds:
        if (why := bound.check(value)) is not None:
            raise Malformed(f"{name} {why}")
    return value


def decode_union(kinds: tuple[Any, ...], plain: Any, name: str) -> Any:
    """The first of the types that takes the value; the last one's complaint if none does."""
    problem = Malformed(f"{name} must not be empty")
    for kind in kinds:
        try:
            return decode(kind, plain, name)
        except Malformed as error:
            if kind is not NoneType:
                problem = error
    raise problem


@cache
def fields_of(kind: Any) -> dict[str, tuple[Any, bool]]:
    """A record's fields: the annotated type of each, and whether it must be there."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: (hints[field.name], is_required(field)) for field in fields(kind)}


def is_required(field: Field[Any]) -> bool:
    """Whether a field has no default."""
    return field.default is MISSING and field.default_factory is MISSING


def decode_record(kind: Any, plain: Any, name: str) -> Any:
    """The record that a map is the form of. Raises Malformed."""
    if not isinstance(plain, dict):
        raise Malformed(f"{name} must be a map")
    known = fields_of(kind)
    for key in plain:
        if key not in known:
            raise Malformed(f"{name} has no '{str(key)[:40]}'")
    values = {}
    for field, (hint, required) in known.items():
        if field in plain:
            values[field] = decode(hint, plain[field], f"'{field}'")
        elif required:
            raise Malformed(f"{name} needs '{field}'")
    try:
        return kind(**values)
    except Malformed:
        raise
    except ValueError as error:
        raise Malformed(f"{name}: {error}") from None


def decode_scalar(kind: Any, plain: Any, name: str) -> Any:
    """A plain value of exactly that type. Raises Malformed."""
    if kind in (bool, int, str, bytes, NoneType):
        if type(plain) is not kind:
            raise Malformed(f"{name} must be {NAMES[kind]}")
        return plain
    if kind is float:
        if type(plain) not in (int, float) or not math.isfinite(plain):
            raise Malformed(f"{name} must be a number")
        return float(plain)
    try:
        return CONVERTERS.get(kind, kind)(plain)
    except (ValueError, TypeError):
        raise Malformed(f"{name} has not the right form") from None


def uuid_of(plain: Any) -> UUID:
    """The UUID of that text. Raises ValueError."""
    if not isinstance(plain, str):
        raise ValueError(plain)
    return UUID(plain)


NAMES: Final = {
    bool: "true or false",
    int: "a whole number",
    str: "a text",
    bytes: "bytes",
    NoneType: "empty",
}
"""What people call the plain types."""

CONVERTERS: Final[dict[Any, Callable[[Any], Any]]] = {UUID: uuid_of}
"""How types that are no record are made of their plain form; others are called with it."""
