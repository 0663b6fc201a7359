"""From the words of the command line to the axes of a sweep."""

from __future__ import annotations

import difflib
import tomllib
import typing
from collections.abc import Callable, Sequence
from typing import TypeVar

from features.errors import ConfigError
from features.settings import TableSettings, parse_size
from trainer.toml import toml_value

# Keys with an option of their own, which knows what goes with them.
_OWN_OPTION = {
    "table.method": "--methods",
    "table.multiplexed": "--multiplexed",
    "table.budget": "--budgets",
    "table.lookups": "--lookups",
    "table.width": "--widths",
    "table.hash_seed": "--hash-seeds",
    "train.seed": "--seeds",
}

T = TypeVar("T")


def parse_methods(text: str) -> tuple[str, ...]:
    """Returns the methods of "unified,qr"; ConfigError for one that does not exist."""
    known = typing.get_args(TableSettings.model_fields["method"].annotation)
    words = _words(text, "--methods")
    for word in words:
        if word not in known:
            near = difflib.get_close_matches(word, known, n=1)
            raise ConfigError(
                f'--methods: there is no method "{word}"',
                f'did you mean "{near[0]}"?' if near else f"methods: {', '.join(known)}",
            )
    return words


def parse_budgets(text: str) -> tuple[str, ...]:
    """Returns the sizes of "158 kB,1.6 MB"; ConfigError for one that is none."""
    words = _words(text, "--budgets")
    for word in words:
        try:
            parse_size(word)
        except ValueError as exc:
            raise ConfigError(f"--budgets: {exc}", 'write them as in "158 kB,1.6 MB"') from exc
    return words


def parse_counts(text: str, option: str, least: int = 1) -> tuple[int, ...]:
    """Returns the whole numbers of "1,2,3"; ConfigError for what is none or below `least`."""

    def count(word: str) -> int:
        if not word.isdecimal() or int(word) < least:
            raise ConfigError(
                f'{option}: "{word}" is no whole number of at least {least}',
                f'write them as in "{least},{least + 1}"',
            )
        return int(word)

    return _distinct(_words(text, option), count)


def parse_hash_seeds(text: str) -> tuple[int, ...] | None:
    """Returns the seeds of "0,1", or None for "same"."""
    return None if text == "same" else parse_counts(text, "--hash-seeds", 0)


def parse_codecs(text: str) -> tuple[str, ...]:
    """Returns the codecs of "int8,int4"; ConfigError or CodecError for one that does not exist."""
    from storage.codecs import codec_named

    return _distinct(_words(text, "--codec"), lambda word: codec_named(word).text)


def parse_grid(options: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Returns key and values of every "KEY=VALUE,VALUE", the values as TOML writes them.

    Values are those of a TOML list, or words between commas. Raises ConfigError.
    """
    grid: dict[str, tuple[str, ...]] = {}
    for option in options:
        key, equals, text = (part.strip() for part in option.partition("="))
        if not equals or not key or not text:
            raise ConfigError(
                f'--grid "{option}" has no values', "write --grid table.optimizer=adam,sgd"
            )
        if key in _OWN_OPTION:
            raise ConfigError(
                f"--grid {key}: this key has an option of its own", f"use {_OWN_OPTION[key]}"
            )
        if key.startswith("run.") or key in grid:
            why = "is named twice" if key in grid else "does not change what is trained"
            raise ConfigError(f"--grid {key} {why}", "leave it out")
        grid[key] = _values(text)
    return grid


def _values(text: str) -> tuple[str, ...]:
    try:
        return _distinct(tomllib.loads(f"values = [{text}]")["values"], toml_value)
    except (tomllib.TOMLDecodeError, TypeError):
        # apply_override takes what is no TOML for a string.
        return _distinct(_words(text, "--grid"), str)


def _words(text: str, option: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(","))
    if "" in words:
        raise ConfigError(f'{option} "{text}" has an empty value', "put values between the commas")
    return words


def _distinct(words: Sequence[typing.Any], read: Callable[[typing.Any], T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(read(word) for word in words))
