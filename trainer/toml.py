"""Writes a tree of settings as TOML: what a report shows and a new job file is made of."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml_text(tree: Mapping[str, Any]) -> str:
    """Returns the TOML of a tree of tables, lists, strings, numbers and booleans, without None."""
    lines: list[str] = []
    _write(tree, (), lines)
    return "\n".join(lines).strip() + "\n"


def toml_key(name: str) -> str:
    """Returns a key, quoted where it must be."""
    return name if _BARE.fullmatch(name) else toml_value(name)


def toml_value(value: Any) -> str:
    """Returns one value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for characters beyond the basic plane and DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    raise TypeError(f"{type(value).__name__} is no value of a job file")


def _write(tree: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    values = {key: value for key, value in tree.items() if not isinstance(value, Mapping)}
    if path and (values or not tree):
        lines += ["", f"[{'.'.join(map(toml_key, path))}]"]
    for key, value in values.items():
        if value is not None:
            lines.append(f"{toml_key(key)} = {toml_value(value)}")
    for key, value in tree.items():
        if isinstance(value, Mapping):
            _write(value, (*path, key), lines)
