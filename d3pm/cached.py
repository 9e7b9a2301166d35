"""An attribute worked out when it is first asked for, which a compiler can see through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

T = TypeVar("T")


class cached_property(Generic[T]):  # stands in for the one of functools
    """As ``functools.cached_property``, without the lock it holds before Python 3.12: no graph goes through a lock.

    The value is kept in the instance's ``__dict__`` under its own name, so it is worked out once and looked up as any
    attribute after that.

    >>> class Circle:
    ...     radius = 2
    ...
    ...     @cached_property
    ...     def area(self) -> float:
    ...         print("worked out")
    ...         return 3.14 * self.radius**2
    >>> circle = Circle()
    >>> circle.area, circle.area
    worked out
    (12.56, 12.56)
    """

    def __init__(self, find: Callable[[Any], T]) -> None:
        self.find, self.__doc__ = find, find.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type | None = None) -> T: ...

    def __get__(self, instance: object | None, owner: type | None = None) -> Self | T:
        if instance is None:
            return self
        value = self.find(instance)
        instance.__dict__[self.name] = value
        return value
