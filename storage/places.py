"""Where a bundle lies: a path of a file system, or of an object store."""

import re
from dataclasses import dataclass
from pathlib import Path

from features.errors import ConfigError

_URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<key>[^?#]*))?")


@dataclass(frozen=True, slots=True, order=True)
class ObjectPath:
    """A key of a bucket, used like a path: `/`, `name`, `parent`; its text is s3://bucket/key."""

    bucket: str
    key: str

    def __truediv__(self, name: str) -> "ObjectPath":
        return ObjectPath(self.bucket, f"{self.key}/{name}" if self.key else name)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> "ObjectPath":
        """The key without its last part."""
        return ObjectPath(self.bucket, self.key.rpartition("/")[0])

    @property
    def within(self) -> str:
        """Bucket and key with a slash between."""
        return f"{self.bucket}/{self.key}" if self.key else self.bucket


Place = Path | ObjectPath


def place_of(text: str, base: Path) -> Place:
    """Returns the place a setting names; relative paths start at `base`.

    ConfigError where it is a URL of another kind than s3://bucket/prefix.
    """
    match = _URL.fullmatch(text)
    if match:
        key = (match["key"] or "").strip("/")
        if "//" in key or any(part in (".", "..") for part in key.split("/")):
            raise ConfigError(f'"{text}" has an empty or dotted part', "give s3://bucket/prefix")
        return ObjectPath(match["bucket"], key)
    if "://" in text:
        raise ConfigError(
            f'"{text}" is no place to write to', "give a folder or s3://bucket/prefix"
        )
    return base / text
