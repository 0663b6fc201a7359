"""Writes docs/settings.md from the settings models: `python -m launch.settings_page`."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trainer.job import Job
from trainer.toml import toml_value

_HEAD = """# Settings

Every key of a job file, as `muxtable train JOB` reads it. The file is TOML; unknown keys are
refused, and so are values of another type. `--set table.width=32` overrides a key on the command
line. Paths are relative to the job file.

This page is written by `make docs` from the models in `features/settings.py` and
`trainer/settings.py`.
"""

_BOUNDS = (
    (annotated_types.Ge, "ge", ">="),
    (annotated_types.Gt, "gt", ">"),
    (annotated_types.Le, "le", "<="),
    (annotated_types.Lt, "lt", "<"),
)


def settings_page() -> str:
    """Returns the page."""
    return "\n".join([_HEAD, *_sections()]).rstrip() + "\n"


def _sections() -> Iterator[str]:
    for name, field in Job.model_fields.items():
        model = field.annotation
        title = f"[{name}]"
        if typing.get_origin(model) is dict:
            title, model = f"[{name}.NAME]", typing.get_args(model)[1]
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise AssertionError(f"Job.{name} is no model")
        yield f"## `{title}`\n\n{_first_line(model)}\n"
        yield "| key | type | default | |\n|---|---|---|---|"
        for key, each in model.model_fields.items():
            cells = (f"`{key}`", _type(each.annotation, each.metadata), _default(each), _help(each))
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
        yield ""


def _first_line(model: type[BaseModel]) -> str:
    # The section's own name at the end of a docstring stands in the title already.
    return (model.__doc__ or "").strip().splitlines()[0].partition(": `[")[0].rstrip(".") + "."


def _help(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None or default in ({}, []):
        return "-"
    return f"`{toml_value(default)}`"


def _type(annotation: Any, metadata: list[Any]) -> str:
    """How a person says a type: "integer >= 1", "one of `a`, `b`", "list of strings"."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0], [*metadata, *arguments[1:]])
    if origin in (types.UnionType, typing.Union):
        kinds = [_type(each, metadata) for each in arguments if each is not types.NoneType]
        return " or ".join(kinds)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is list:
        return f"list of {_plural(_type(arguments[0], []))}"
    if origin is tuple:
        return f"list of {len(arguments)} {_plural(_type(arguments[0], []))}"
    if origin is dict:
        return f"table of {_type(arguments[1], [])}"
    names = {str: "string", int: "integer", float: "number", bool: "boolean"}
    return names[annotation] + _bounds(metadata)


def _plural(kind: str) -> str:
    word, space, rest = kind.partition(" ")
    return f"{word}s{space}{rest}"


def _bounds(metadata: list[Any]) -> str:
    found = []
    for item in metadata:
        bounds = item.metadata if isinstance(item, FieldInfo) else [item]
        for bound in bounds:
            found += [
                f"{sign} {_round_number(getattr(bound, name))}"
                for kind, name, sign in _BOUNDS
                if isinstance(bound, kind)
            ]
    return " " + " and ".join(found) if found else ""


def _round_number(value: float) -> str:
    if isinstance(value, int) and value >= 2**20 and value & (value - 1) == 0:
        return f"2^{value.bit_length() - 1}"
    return f"{value}"


if __name__ == "__main__":
    sys.stdout.write(settings_page())
