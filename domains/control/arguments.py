"""What the records of operations are made from: how an operation is answered, and the numbers that many of them have."""

from __future__ import annotations

from typing import Annotated, Final, Generic, TypeVar

from domains.control.records import Range, Record

R = TypeVar("R")
P = TypeVar("P")

ANY_NUMBER: Final = Range(0, (1 << 64) - 1)

Count = Annotated[int, ANY_NUMBER]
DomIdNumber = Annotated[int, Range(0, 0x7FFF)]
Duration = Annotated[float, Range(0, float("inf"))]


class Arguments(Record, Generic[R]):
    """The arguments of an operation whose result is an R."""


class Stream(Arguments[R], Generic[P, R]):
    """The arguments of an operation that is answered by any number of P, and in the end by an R."""
