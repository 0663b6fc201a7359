"""What a snapshot says of itself: the object "snapshot" in the content of its manifest.

    format       1
    name         the version's own name
    layout       features, regions, hash and salts (features.layout_json)
    codec        how a row is stored (storage.codecs)
    hash_seed    which hash functions
    rows, row_bytes, width
    probes       values with the digest of their vectors (storage.probes)
    lineage      the run, the step and the checkpoint it was taken from
    error        what the codec changed, measured over all rows
    tower        null, or the file of the model on top and the columns it takes

It is a function of the checkpoint, the codec and the name: no time, no path, no random token.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from features.errors import SnapshotError
from storage import canonical

SNAPSHOT = "snapshot"
FORMAT: Literal[1] = 1

Count = Annotated[int, Field(ge=0)]
Key = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Id = Annotated[int, Field(ge=-(2**63), lt=2**64)] | str
ProbeValue = Id | float | tuple[Id, ...] | None


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Lineage(_Model):
    """Where the rows come from."""

    run: str
    """The token of the run: the same for all checkpoints of one run's folder."""
    job: str
    """sha256 of the settings that had a part in what came out."""
    step: Count
    checkpoint: str
    """sha256 of the manifest of the checkpoint."""


class Probe(_Model):
    """Values of one feature, and what their vectors are."""

    feature: str
    values: tuple[ProbeValue, ...]
    """As a caller writes them; null where only the key is known, or for null itself."""
    keys: tuple[Key | None, ...]
    """The key of each, 16 hexadecimal digits; null for null."""
    sha256: str
    """Of the vectors, lookups side by side, one value after the other, float32 little-endian."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if len(self.values) != len(self.keys):
            raise ValueError("a probe has as many keys as values")
        return self


class Deviation(_Model):
    """How far decoded rows are from those of the checkpoint."""

    relative: float
    """sqrt(sum (decoded - row)^2 / sum row^2) over all rows."""
    largest: float
    """The largest difference of one number."""
    bound: str | None
    """What the codec promises for each row, where it promises something."""


class Tower(_Model):
    """The model on top of the embeddings, as an ONNX file of the bundle."""

    file: str
    width: Count
    """Columns of its input "embeddings"."""
    dense: tuple[str, ...]
    """The raw columns of its input "dense", in order."""


class Record(_Model):
    """The object "snapshot"."""

    format: Literal[1] = FORMAT
    name: str
    layout: dict[str, JsonValue]
    codec: dict[str, JsonValue]
    hash_seed: int
    rows: Count
    width: Count
    row_bytes: Count
    probes: tuple[Probe, ...]
    lineage: Lineage
    error: Deviation
    tower: Tower | None

    def to_json(self) -> dict[str, Any]:
        """Returns the object as plain JSON values."""
        return self.model_dump(mode="json")


def record_in(content: dict[str, Any], where: str) -> Record:
    """Returns what a snapshot says of itself; SnapshotError naming `where` if it is none."""
    tree = content.get(SNAPSHOT)
    if tree is None:
        raise SnapshotError(f"{where} is no snapshot", "give a folder that `muxtable export` wrote")
    version = tree.get("format") if isinstance(tree, dict) else None
    if type(version) is int and version > FORMAT:
        raise SnapshotError(
            f"{where} is a snapshot of format {version}; this muxtable reads {FORMAT}",
            "use a muxtable as new as the one that wrote it",
        )
    try:
        return Record.model_validate_json(canonical.encode(tree))
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        key = ".".join(str(part)[:80] for part in error["loc"])
        raise SnapshotError(
            f'{where} is no sound snapshot: key "{key}": {error["msg"]}',
            "take it from a copy, or use another version",
        ) from exc
