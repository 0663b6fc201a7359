"""The job file: one TOML that says everything, read into `trainer.job.Job`."""

from __future__ import annotations

import difflib
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from features.errors import ConfigError
from features.settings import FeatureSettings
from trainer.job import Job


def load_job(path: Path, overrides: Sequence[str] = ()) -> Job:
    """Reads a job file and applies `key.sub=value` overrides (TOML values; bare words are strings).

    Raises ConfigError naming the file and the key: unreadable file, bad TOML (with line and
    column), unknown key (with the nearest right one), wrong type or value.
    """
    return parse_job(load_tree(path, overrides), str(path))


def load_tree(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a job file as it is written, with its overrides, for `parse_job`.

    Raises ConfigError for a file that cannot be read or is no TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(
            f"cannot read job file {path}: {exc.strerror}", "give the path of a job file"
        ) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(
            f"job file {path} is not UTF-8 text", "give the path of a TOML job file"
        ) from exc
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: {exc}", "mend the TOML there") from exc
    for override in overrides:
        apply_override(tree, override)
    return tree


def parse_job(tree: Mapping[str, Any], where: str) -> Job:
    """Validates a job tree; `where` names its origin in messages. Raises ConfigError."""
    try:
        text = json.dumps(tree, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise ConfigError(
            f"{where}: {exc}", "job files hold text, finite numbers, booleans, lists and tables"
        ) from exc
    try:
        return Job.model_validate_json(text)
    except ValidationError as exc:
        raise _translate(exc, where) from exc


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Sets one key of a job tree in place from "table.width=32"; ConfigError if it is malformed."""
    key, equals, value = override.partition("=")
    names = _split_key(key.strip(), override)
    if not equals:
        raise ConfigError(f'--set "{override}" has no "="', "write --set table.width=32")
    node = tree
    for name in names[:-1]:
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            raise ConfigError(
                f'--set "{override}": "{name}" is a value, not a table', "name a key inside a table"
            )
        node = child
    node[names[-1]] = _toml_value(value.strip())


def _split_key(key: str, override: str) -> list[str]:
    """The parts of a dotted TOML key; quoted parts may hold dots."""
    try:
        node: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(
            f'--set "{override}": "{key}" is no key', "write --set table.width=32"
        ) from exc
    names = []
    while isinstance(node, dict):
        name, node = next(iter(node.items()))
        names.append(name)
    return names


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _translate(exc: ValidationError, where: str) -> ConfigError:
    errors = exc.errors(include_url=False)
    error = errors[0]
    path = _path(error["loc"])
    same = [each for each in errors if _path(each["loc"]) == path]
    more = len(errors) - len(same)
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        what = f'{where}: unknown key "{key}"'
        fix = (
            f'did you mean "{".".join([*path[:-1], near[0]])}"?'
            if near
            else f"known here: {', '.join(known)}"
        )
    elif error["type"] == "missing":
        what, fix = f'{where}: key "{key}" is missing', f"add it: {_describe(path)}"
    else:
        # A key that may be of several types has an error for each.
        details = (each["msg"].removeprefix("Value error, ") for each in same)
        detail = ", or ".join(dict.fromkeys(text[0].lower() + text[1:] for text in details))
        value = json.dumps(error["input"])
        what = f'{where}: key "{key}" is {value}: {detail}'
        fix = _describe(path)
    return ConfigError(what + (f" (and {more} more)" if more else ""), fix)


def _path(loc: Sequence[int | str]) -> list[str]:
    """The key of an error: without places in lists, and without the types that a key may be of."""
    path = [part for part in loc if isinstance(part, str) and not part.startswith("function-")]
    depth = 3 if path[:1] == ["feature"] else 2
    model = _model_at(path[:1])
    field = model.model_fields.get(path[depth - 1]) if model and len(path) > depth else None
    is_one_of = field and typing.get_origin(field.annotation) in (types.UnionType, typing.Union)
    return path[:depth] if is_one_of else path


def _model_at(path: Sequence[str]) -> type[BaseModel] | None:
    model: Any = Job
    for part in path:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return None
        field = model.model_fields.get(part)
        if field is None:
            return None
        model = field.annotation
        if typing.get_origin(model) is dict:
            value = typing.get_args(model)[1]
            return FeatureSettings if value is FeatureSettings else None
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _known_keys(path: Sequence[str]) -> list[str]:
    model = _model_at(path[:1]) if path[:1] == ["feature"] else _model_at(path)
    return sorted(model.model_fields) if model else []


def _describe(path: Sequence[str]) -> str:
    parents = path[:1] if path[:1] == ["feature"] else path[:-1]
    model = _model_at(parents)
    field = model.model_fields.get(path[-1]) if model and path else None
    if field is not None and field.description:
        return " ".join(field.description.split())
    return "see docs/settings.md"
