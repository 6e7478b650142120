"""Typed records and their plain form, which msgpack carries: the one place where what arrives is checked.

The annotations of a record's fields say everything that is checked: the type, and in `Annotated` the range of a number,
the length of a text, or a pattern. A record may check more in `__post_init__`.

    record    {field: value, …}; a field with a default may be missing, one that is not known may not be there
    tuple     a list        enumeration, UUID    their text        None, bool, int, float, str, bytes    themselves
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    NoReturn,
    Self,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)
from uuid import UUID


class Malformed(ValueError):
    """What arrived is no such record; `str()` is one line that names the field."""


@dataclass_transform(frozen_default=True)
class Record:
    """Data that does not change. A subclass declares its fields by annotations and is made, compared and printed as a frozen
    dataclass is; but nothing is written and compiled for it, which was a third of the time that xenctl took to start.
    """

    fields: ClassVar[tuple[str, ...]] = ()
    """The names, in the order of the constructor's arguments."""
    defaults: ClassVar[dict[str, Any]] = {}
    """What those fields are that need not be given."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = vars(cls).get("__annotations__", {})
        cls.fields = (*cls.fields, *own)
        cls.defaults = cls.defaults | {name: vars(cls)[name] for name in own if name in vars(cls)}

    def __init__(self, *values: Any, **named: Any) -> None:
        given = self.defaults | dict(zip(self.fields, values, strict=False)) | named
        if len(values) > len(self.fields) or given.keys() != set(self.fields):
            raise TypeError(f"{type(self).__name__} takes {', '.join(self.fields) or 'nothing'}")
        vars(self).update(given)
        self.__post_init__()

    def __post_init__(self) -> None:
        """What more there is to check. Raises ValueError."""

    def replaced(self, **changes: Any) -> Self:
        """The same with other values in these fields, checked anew."""
        return type(self)(**vars(self) | changes)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), *map(vars(self).get, self.fields)))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.fields)})"
        )

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} does not change")


class Range(Record):
    """The numbers from `low` to `high`, both included."""

    low: float
    high: float

    def check(self, value: Any) -> str | None:
        """Why a number is refused, or None."""
        return None if self.low <= value <= self.high else f"must lie between {self.low} and {self.high}"


class Length(Record):
    """At most so many items; of a text so many bytes in UTF-8, and no NUL among them."""

    most: int

    def check(self, value: Any) -> str | None:
        """Why a text or tuple is refused, or None."""
        if isinstance(value, str):
            if "\0" in value:
                return "contains a NUL character"
            value = value.encode("utf-8", "replace")
        return None if len(value) <= self.most else f"is longer than {self.most}"


class Matches(Record):
    """A text that has this form as a whole."""

    pattern: re.Pattern[str]

    def check(self, value: Any) -> str | None:
        """Why a text is refused, or None."""
        return None if self.pattern.fullmatch(value) else "has not the right form"


Decoder = Callable[[Any, str], Any]
"""(plain form, what it is called in the message of a Malformed) -> value"""


def encode(value: Any) -> Any:
    """The plain form of a record, or of what a record may contain."""
    if isinstance(value, Record):
        return {name: encode(getattr(value, name)) for name in value.fields}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, UUID) else value


def decode(kind: Any, plain: Any, name: str = "the value") -> Any:
    """The value of the annotated type `kind` that `plain` is the form of. Raises Malformed; `name` is what it is
    called in the message.
    """
    return decoder_of(kind)(plain, name)


@cache
def decoder_of(kind: Any) -> Decoder:
    """What decodes an annotated type. It is made once: a description may have hundreds of devices, and the looks at a
    type's parts take ten times as long as the looks at a value.
    """
    origin = get_origin(kind)
    if origin is Annotated:
        base, *bounds = get_args(kind)
        if get_origin(base) is tuple:
            return tuple_decoder(get_args(base)[0], bounds)
        return bounded_decoder(decoder_of(base), bounds)
    if origin in (Union, UnionType):
        return union_decoder(get_args(kind))
    if origin is tuple:
        return tuple_decoder(get_args(kind)[0], [])
    if isinstance(kind, type) and issubclass(kind, Record):
        return record_decoder(kind)
    return plain_decoder(kind) if kind in NAMES else converter(kind)


def checked(value: Any, bounds: list[Any], name: str) -> Any:
    """The value, if it keeps all its bounds. Raises Malformed."""
    for bound in bounds:
        if (why := bound.check(value)) is not None:
            raise Malformed(f"{name} {why}")
    return value


def bounded_decoder(decoder: Decoder, bounds: list[Any]) -> Decoder:
    """Decodes what keeps its bounds besides."""
    return lambda plain, name: checked(decoder(plain, name), bounds, name)


def tuple_decoder(item: Any, bounds: list[Any]) -> Decoder:
    """Decodes a list. Its length is checked first: one that is too long costs nothing."""
    decoder = decoder_of(item)

    def decode_tuple(plain: Any, name: str) -> Any:
        if not isinstance(plain, list | tuple):
            raise Malformed(f"{name} must be a list")
        checked(plain, bounds, name)
        return tuple(decoder(value, f"{name}[{n}]") for n, value in enumerate(plain))

    return decode_tuple


def union_decoder(kinds: tuple[Any, ...]) -> Decoder:
    """Decodes to the first of the types that takes the value; the last one's complaint if none does."""
    optional = NoneType in kinds
    decoders = [decoder_of(kind) for kind in kinds if kind is not NoneType]

    def decode_union(plain: Any, name: str) -> Any:
        if plain is None and optional:
            return None
        problem = Malformed(f"{name} must be empty")
        for decoder in decoders:
            try:
                return decoder(plain, name)
            except Malformed as error:
                problem = error
        raise problem

    return decode_union


def record_decoder(kind: type[Record]) -> Decoder:
    """Decodes a map to a record."""
    hints = get_type_hints(kind, include_extras=True)
    known = {name: (decoder_of(hints[name]), name not in kind.defaults, f"'{name}'") for name in kind.fields}

    def decode_record(plain: Any, name: str) -> Any:
        if not isinstance(plain, dict):
            raise Malformed(f"{name} must be a map")
        for key in plain:
            if key not in known:
                raise Malformed(f"{name} has no '{str(key)[:40]}'")
        values = {}
        for field, (decoder, required, called) in known.items():
            if field in plain:
                values[field] = decoder(plain[field], called)
            elif required:
                raise Malformed(f"{name} needs '{field}'")
        try:
            return kind(**values)
        except Malformed:
            raise
        except ValueError as error:
            raise Malformed(f"{name}: {error}") from None

    return decode_record


def plain_decoder(kind: Any) -> Decoder:
    """Decodes a value of exactly that plain type; a float may be written as a whole number."""

    def decode_plain(plain: Any, name: str) -> Any:
        if type(plain) is not kind:
            raise Malformed(f"{name} must be {NAMES[kind]}")
        return plain

    def decode_float(plain: Any, name: str) -> Any:
        if type(plain) not in (int, float) or not math.isfinite(plain):
            raise Malformed(f"{name} must be {NAMES[float]}")
        return float(plain)

    return decode_float if kind is float else decode_plain


def converter(kind: Any) -> Decoder:
    """Decodes to a type that is no record and not plain: an enumeration, a UUID."""
    make = CONVERTERS.get(kind, kind)

    def convert(plain: Any, name: str) -> Any:
        try:
            return make(plain)
        except (ValueError, TypeError):
            raise Malformed(f"{name} has not the right form") from None

    return convert


def uuid_of(plain: Any) -> UUID:
    """The UUID of that text. Raises ValueError."""
    if not isinstance(plain, str):
        raise ValueError(plain)
    return UUID(plain)


NAMES: Final = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    bytes: "bytes",
    NoneType: "empty",
}
"""What people call the plain types."""

CONVERTERS: Final[dict[Any, Callable[[Any], Any]]] = {UUID: uuid_of}
"""How types that are no record are made of their plain form; others are called with it."""
