"""Strict reading of frozen dataclasses from JSON types. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that cannot be built; the message names the field."""


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def build(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """A dataclass from its ``asdict`` form. Raises ConfigError for unknown or missing keys and wrong values."""
    require(isinstance(data, Mapping), f"{where} must be a mapping")
    hints = get_type_hints(cls)
    unknown = sorted(set(data) - set(hints))
    require(not unknown, f"{where} has unknown keys: {', '.join(map(str, unknown))}")
    values: dict[str, Any] = {}
    for key, value in data.items():
        section = _section(hints[key], value, f"{where}.{key}")
        if section is not None:
            value = build(section, value, f"{where}.{key}")
        value = tuple(value) if isinstance(value, list) else value
        require(_is_a(value, hints[key]), f"{where}.{key} must be {_shown(hints[key])}, got {value!r}")
        values[key] = value
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from None


def _section(hint: Any, value: object, where: str) -> Any | None:
    """The dataclass that a key's value is read into; of several, the one that has the value's ``kind``."""
    choices = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if NoneType in choices and value is None:
        return None
    choices = tuple(choice for choice in choices if choice is not NoneType)
    if not all(dataclasses.is_dataclass(choice) for choice in choices):
        return None
    if len(choices) == 1:
        return choices[0]
    kinds = {kind: choice for choice in choices for kind in get_args(get_type_hints(choice)["kind"])}
    kind = value.get("kind") if isinstance(value, Mapping) else None
    shown = " or ".join(map(repr, kinds))
    require(isinstance(kind, str) and kind in kinds, f"{where}.kind must be {shown}, got {kind!r}")
    return kinds[kind]


def _is_a(value: object, hint: Any) -> bool:
    """Whether a value read from JSON has the annotated type; an int is a float, a bool is no number."""
    if isinstance(hint, UnionType):
        return any(_is_a(value, choice) for choice in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        items = get_args(hint)
        if len(items) == 2 and items[1] is Ellipsis:
            return isinstance(value, tuple) and all(_is_a(v, items[0]) for v in value)
        return (
            isinstance(value, tuple)
            and len(value) == len(items)
            and all(_is_a(v, i) for v, i in zip(value, items, strict=True))
        )
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def _shown(hint: Any) -> str:
    return (
        " or ".join(map(repr, get_args(hint))) if get_origin(hint) is Literal else getattr(hint, "__name__", str(hint))
    )
