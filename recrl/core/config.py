"""Configurations: frozen dataclasses that are the CLI's options and a run's JSON; an unknown key is an error."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

import pydantic.dataclasses  # noqa: F401 - pydantic would load it within the first call
from pydantic import TypeAdapter, ValidationError

from recrl.core.errors import ConfigError

C = TypeVar("C")
# making an adapter takes longer than using it
_adapter: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass instance as plain JSON-ready values."""
    data: dict[str, Any] = _adapter(type(config)).dump_python(config, mode="json")
    return data


def to_json(config: Any) -> str:
    """A dataclass instance as indented JSON."""
    return json.dumps(to_dict(config), indent=2, sort_keys=True)


def from_dict(kind: type[C], data: Any, *, where: str = "config") -> C:
    """Build ``kind`` from plain values, checking keys and types.

    **Errors**: :class:`ConfigError` names the key, its value and the nearest known key.
    """
    _refuse_unknown(kind, data, where)
    try:
        return _adapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(p) for p in first["loc"])
        raise ConfigError(
            f"{path or kind.__name__}: {first['msg']} (got {first['input']!r:.80})",
            where=f"{where}: {path}" if path else where,
            mend="correct the value; `recrl <verb> --help` lists each option with its type",
        ) from None


def from_json(kind: type[C], text: str, *, where: str = "config") -> C:
    """Build ``kind`` from JSON text; ``where`` is named in errors.

    **Errors**: :class:`ConfigError` for text that is no JSON, and as :func:`from_dict`.

    >>> from recrl.core.objective import Signal
    >>> from_json(Signal, '{"name": "click"}').name
    'click'
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"not valid JSON: {error.msg} at line {error.lineno}", where=where, mend="restore the file, or delete the run and start again"
        ) from None
    return from_dict(kind, data, where=where)


def _refuse_unknown(kind: type[Any], data: Any, where: str) -> None:
    if not isinstance(data, dict):
        raise ConfigError(
            f"expected an object with the fields of {kind.__name__}, got {data!r:.80}",
            where=where,
            mend="pass a mapping of option to value",
        )
    hints = get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    for key, value in data.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"unknown key {key!r}", where=f"{where}: {kind.__name__}", mend=f"{hint}known keys: {', '.join(known)}")
        if dataclasses.is_dataclass(hints[key]) and isinstance(value, dict):
            _refuse_unknown(hints[key], value, f"{where}.{key}")
