"""One value at a running service: from words on a command line to its vector."""

from __future__ import annotations

import datetime
import difflib
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from features.errors import ConfigError

if TYPE_CHECKING:
    from serving.client import Client
    from serving.stubs.parameter_pb2 import FeatureInfo


def look_up_at(client: Client, server: str, name: str, words: list[str]) -> dict[str, Any]:
    """Returns what a service says of a value; no word stands for null."""
    reply = client.manifest()
    infos = {info.name: info for info in reply.features}
    if name not in infos:
        near = difflib.get_close_matches(name, infos, n=1)
        raise ConfigError(
            f'the service has no feature "{name}"',
            f'did you mean "{near[0]}"?' if near else f"its features: {', '.join(infos)}",
        )
    info = infos[name]
    if words and len(words) != len(info.columns):
        raise ConfigError(
            f'"{name}" is of {len(info.columns)} columns, and {len(words)} values were given',
            f"give one for each of {', '.join(info.columns)}",
        )
    values = {}
    for place, column in enumerate(info.columns):
        part = _owner(infos, info, column)
        values[column] = _column(part, words[place] if words else None)
    found = client.lookup(values, [name])
    return {
        "server": server,
        "version": found.version,
        "promotion": found.counter,
        "feature": name,
        "value": words if len(words) != 1 else words[0],
        "lookups": info.lookups,
        "vector": [float(number) for number in found[name][0]],
    }


def _owner(infos: dict[str, FeatureInfo], info: FeatureInfo, column: str) -> FeatureInfo:
    """Returns the feature that says what the values of a column are: of a cross, its part."""
    if info.kind != "cross":
        return info
    parts = [each for each in infos.values() if list(each.columns) == [column]]
    return parts[0] if parts else info


def _column(info: FeatureInfo, word: str | None) -> Any:
    """Returns a word as a column of one value of the kind that a feature takes."""
    if word is None:
        return pa.nulls(1)
    try:
        if info.derive:
            moment = datetime.datetime.fromisoformat(word)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=datetime.UTC)
            return pa.array([moment], pa.timestamp("us", "UTC"))
        if info.kind == "bucketized":
            return pa.array([float(word)])
        value: int | str = word if info.key_class == "string" else int(word)
    except ValueError as exc:
        wanted = "a date, such as 2013-01-31T08:00" if info.derive else "a number"
        raise ConfigError(f'"{word}" is no value of "{info.name}"', f"write {wanted}") from exc
    if info.pooling:
        return pa.array([[value]])
    return pa.array([value])
