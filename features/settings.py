"""The parts of a job file that say what the input is and how large the table may be.

Paths are strings here and are resolved against the job file's folder by `launch.settings`.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kKMGT]?i?B)\s*")
_UNITS = {unit: 1000**power for power, unit in enumerate(["B", "kB", "MB", "GB", "TB"])} | {
    unit: 1024**power for power, unit in enumerate(["B", "KiB", "MiB", "GiB", "TiB"])
}


# Popular values of a feature: their keys and counts are held in memory and in the profile.
MAX_POPULAR = 1 << 20

# Lookups of a feature where nothing is said, or nothing is known yet.
START_LOOKUPS = 2

Names = list[str]  # one of the models below has a field called `list`


def parse_size(text: str) -> int:
    """Returns the bytes of a size such as "64 MiB" (binary) or "1.6 MB" (decimal); ValueError if it
    is none."""
    match = _SIZE.fullmatch(text.replace("ki", "Ki"))
    if match is None or match[2] not in _UNITS:
        raise ValueError(
            f'"{text}" is no size; write a number and a unit (B, kB, MB, GB, KiB, MiB, GiB), '
            'as in "64 MiB"'
        )
    return int(float(match[1]) * _UNITS[match[2]])


class Settings(BaseModel):
    """A frozen part of the job file; unknown keys and wrong types are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class DataSettings(Settings):
    """Where the rows are."""

    train: str | list[str]
    """Parquet files to train on: a path, a glob, or a list of these; local, or s3:// and others
    through pyarrow.fs."""
    valid: str | list[str] | None = None
    """Parquet files the metrics during training are computed on."""
    test: str | list[str] | None = None
    """Parquet files the final metrics are computed on, once."""
    label: str
    """Column of the label, 0 or 1 (integers, booleans, or floats equal to them)."""
    weight: str | None = None
    """Column of the sample weights, finite and not negative."""
    streams: Annotated[int, Field(ge=1, le=4096)] = 12
    """Parallel streams the row groups are dealt to; at least the number of ranks; part of the
    data's order."""
    block_rows: Annotated[int, Field(ge=1, le=65536)] = 65536
    """Rows of a block: the unit that is dealt to streams and permuted inside; part of the data's
    order."""
    shuffle: bool = True
    """Permute blocks and rows each epoch; false keeps the files' order inside each stream."""
    prefetch: Annotated[int, Field(ge=0, le=64)] = 2
    """Batches assembled ahead of training."""
    read_threads: Annotated[int, Field(ge=1, le=64)] = 1
    """Threads that read and decode blocks ahead of training."""


class FeatureSettings(Settings):
    """What differs for one feature: `[feature.NAME]`."""

    column: str | None = None
    """Input column, when it is not the feature's name."""
    lookups: Annotated[int, Field(ge=1, le=64)] | None = None
    """Rows read for each value; the embedding is lookups x width wide."""
    shares: str | None = None
    """Feature whose rows this one shares: the same value of both reads the same rows."""
    exact: bool | None = None
    """True: each value seen in training owns its rows. False: always hashed. Unset: by
    table.exact_below."""
    multiplexed: bool | None = None
    """False gives this feature a region of its own in a multiplexed table."""
    derive: Literal["hour", "weekday", "day"] | None = None
    """Part of a date or timestamp column (UTC) used as the value: hour 0-23, weekday 0-6 from
    Monday, day 1-31."""
    pooling: Literal["mean", "sum", "last"] | None = None
    """How a list (mean, sum) or a sequence (mean, last) becomes one vector."""
    max_length: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Values kept of a sequence: the newest, which stand last."""
    log: Literal["log1p", "signed"] | None = None
    """Dense: log(1 + max(x, 0)), or sign(x) log(1 + |x|)."""
    clip: tuple[float, float] | None = None
    """Dense: lowest and highest value, applied first."""
    standardize: bool | None = None
    """Dense: subtract the mean and divide by the standard deviation seen in training (default
    true)."""
    missing: bool | None = None
    """Dense: add a column that is 1 where the value is null or NaN (default: where the profile saw
    one)."""
    fill: float | None = None
    """Dense: what stands for null and NaN, before the logarithm (default: the mean, that is 0 when
    standardized)."""
    bucketize: Annotated[int, Field(ge=2, le=4096)] | None = None
    """Dense: cut into that many quantile buckets and embed the bucket as a categorical value."""


class FeaturesSettings(Settings):
    """Which columns are features, by kind: `[features]`."""

    categorical: Names = []
    """Columns of single values: integers, strings, binary, booleans, dates, timestamps."""
    list: Names = []
    """Columns of lists whose values are pooled."""
    sequence: Names = []
    """Columns of ordered histories, oldest first."""
    dense: Names = []
    """Columns of numbers."""
    cross: dict[str, Annotated[Names, Field(min_length=2, max_length=8)]] = {}
    """New features made of two or more categorical columns hashed together: name = ["a", "b"]."""


class TableSettings(Settings):
    """The shared table: `[table]`."""

    budget: str | None = None
    """Bytes of parameters over all ranks, such as "64 MiB" or "1.6 MB"; give this or rows."""
    rows: Annotated[int, Field(ge=1, le=2**40)] | None = None
    """Rows of the table, exact rows included; give this or budget."""
    width: Annotated[int, Field(ge=1, le=1024)] = 16
    """Floats of a row; a feature's embedding is lookups x width."""
    lookups: Annotated[int, Field(ge=1, le=64)] | Literal["auto", "pilot"] = START_LOOKUPS
    """Rows read for each value unless the feature says otherwise. Method unified may choose, 1 to 4
    for each feature: auto by cardinality, pilot by what a short training finds it worth."""
    method: Literal[
        "unified", "hash", "hash_embedding", "pq", "qr", "hashednet", "robe", "dhe", "tt", "exact"
    ] = "unified"
    """How values become embeddings: unified (concatenated lookups), hash (one lookup),
    hash_embedding (weighted sum of lookups), pq (a table for each lookup), qr (product of a row for
    each digit of a value's number), hashednet (signed scalars), robe (blocks of a circular pool),
    dhe (a network over hashes), tt (tensor train over digits), exact (no collisions)."""
    block: Annotated[int, Field(ge=1, le=1024)] = 8
    """Method robe: neighbouring floats of a block."""
    multiplexed: bool = True
    """All hashed features share one region; false gives each a region in proportion to its
    cardinality."""
    exact_below: Annotated[int, Field(ge=0, le=100_000)] = 64
    """Features with at most this many values own exact rows; 0 hashes everything."""
    hot_rows: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    """Share of the table's rows that belong to the most frequent values, each with rows of its own:
    the hot ones of all hashed features together, at most a million. Methods unified, hash and
    pq."""
    frequent_values: Annotated[int, Field(ge=1, le=MAX_POPULAR)] | None = None
    """How many values, the most frequent ones of all hashed features together, read all their
    lookups; others read their first one, and what further ones would read they have in common.
    Methods unified, hash and pq."""
    hash_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Which hash functions; never follows the run's seed."""
    init_scale: Annotated[float, Field(ge=0, le=10)] = 0.05
    """Rows start uniform in (-init_scale, init_scale)."""
    engine: Literal["auto", "fused", "exchange", "torchrec"] = "auto"
    """Kernels behind the table: fused (own, CPU, one rank), exchange (the same over several ranks),
    torchrec (TorchRec and FBGEMM), auto (fused or exchange on a CPU, torchrec on a GPU)."""
    wire: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the exchange engine sends rows and gradients as; 16 bits halve the bytes and round."""
    transport: Literal["auto", "network", "shared_memory"] = "auto"
    """How the exchange engine's ranks reach each other; auto is shared memory where all of them are
    on one machine. The table is the same bit for bit."""
    optimizer: Literal["rowwise_adagrad", "adagrad", "adam", "sgd"] = "rowwise_adagrad"
    """Optimizer of the rows, applied inside the backward pass to touched rows only."""
    learning_rate: Annotated[float, Field(gt=0, le=100)] = 0.05
    """Learning rate of the rows; method dhe, whose rows are a network's, starts from 0.001."""
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-8
    """Added to the denominator of Adagrad and Adam."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Adam: decay of the first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Adam: decay of the second moment."""

    @model_validator(mode="before")
    @classmethod
    def _learning_rate_of_method(cls, given: Any) -> Any:
        # One step of a row's size is right for a row of few values and far too much for a network.
        if isinstance(given, dict) and given.get("method") == "dhe":
            return {"learning_rate": 0.001, **given}
        return given

    @field_validator("budget")
    @classmethod
    def _budget_is_a_size(cls, budget: str | None) -> str | None:
        if budget is not None:
            parse_size(budget)
        return budget

    @property
    def budget_bytes(self) -> int | None:
        """The budget in bytes, or None where `rows` is given instead."""
        return None if self.budget is None else parse_size(self.budget)

    @property
    def num_lookups(self) -> int:
        """`lookups`, or what features start from where that is still to be chosen."""
        return self.lookups if isinstance(self.lookups, int) else START_LOOKUPS

    @property
    def popular_values(self) -> int:
        """The popular values of a feature that the table may ask for: 0 where it asks for none."""
        if self.budget_bytes is None:
            rows = self.rows or 0
        else:
            rows = self.budget_bytes // (self.width * 4)
        return min(max(int(self.hot_rows * rows), self.frequent_values or 0), MAX_POPULAR)
