"""From a run's checkpoint to a version that can be served.

The table is read by ranges and encoded block by block, whatever number of ranks wrote it; it is
never in memory whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from features.batches import KeyColumn
from features.dense import DenseTransform, build_transforms
from features.errors import SnapshotError
from features.routing import Layout
from features.schema import FeatureSet
from native.kernels import gather
from storage.chain import Checkpoint
from storage.codecs import Codec, CodecFactory, sample_rows
from storage.places import ObjectPath, Place
from storage.snapshot import Snapshot
from storage.snapshot_apply import WrittenDelta, write_delta
from storage.snapshot_record import Lineage, Tower
from storage.snapshot_writer import OnRows, Source, Written, put_snapshot, write_snapshot
from storage.vectors import combined
from trainer import saving
from trainer.latest import checkpoint_record
from trainer.onnx_tower import FILE, tower_graph
from trainer.run import Run
from trainer.towers import build_tower

WEIGHT = "table.weight"
# Bytes of rows that are read at a time when rows to learn from are picked.
_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerFile:
    """The model on top of the embeddings as a file, and what a snapshot says of it."""

    data: bytes
    record: Tower


class Export:
    """A checkpoint of a run, opened to be exported: "best", "last", or that of a step.

    Raises SnapshotError where there is none. The run may be training meanwhile.
    """

    def __init__(self, run: Run, which: str | int = "best") -> None:
        self.run = run
        self._checkpoint: Checkpoint = saving.open_checkpoint(run.checkpoints, which)
        try:
            self.layout: Layout = saving.layout_in(self._checkpoint)
            self.step: int = saving.state_in(self._checkpoint).step
            self.lineage = self._lineage()
        except BaseException:
            self._checkpoint.close()
            raise

    def read_rows(self, first: int, end: int) -> NDArray[np.float32]:
        """Returns rows [first, end) of the table."""
        return self._checkpoint.read_rows(WEIGHT, first, end)

    def vectors(self) -> Callable[[str, KeyColumn], NDArray[np.float32]]:
        """Returns what looks up the vectors float32[n, lookups x width] of a feature's keys, each
        by itself; the rows are mapped, or where the checkpoint is a delta put together in memory.
        """
        weight = self._checkpoint.tensor(WEIGHT)

        def look_up(name: str, column: KeyColumn) -> NDArray[np.float32]:
            reader = self.layout[name].reader
            if reader is not None:
                return combined(reader, column, lambda rows: weight[rows])
            rows = self.layout.rows_of(name, column)
            out = np.empty((rows.shape[1], len(rows) * self.layout.width), np.float32)
            if out.size:
                gather(weight, rows, np.arange(len(rows)) * self.layout.width, out)
            return out

        return look_up

    def codec(self, factory: CodecFactory) -> Codec:
        """Returns a codec for the table, trained on some of its rows where it learns.

        The same checkpoint gives the same codec.
        """
        if not factory.learns:
            return factory(self.layout.width)
        numbers = sample_rows(self.layout.rows)
        step = max(1, _BLOCK_BYTES // (4 * self.layout.width))
        sample = np.empty((len(numbers), self.layout.width), np.float32)
        for low in range(0, self.layout.rows, step):
            begin, end = np.searchsorted(numbers, [low, low + step])
            if begin < end:
                rows = self.read_rows(low, min(low + step, self.layout.rows))
                sample[begin:end] = rows[numbers[begin:end] - low]
        return factory(self.layout.width, sample)

    def write(
        self,
        parent: Place,
        name: str,
        codec: Codec,
        *,
        has_tower: bool = True,
        threads: int = 1,
        on_rows: OnRows = lambda _: None,
    ) -> Written:
        """Writes a version; see `storage.snapshot_writer`."""
        source = self.source(codec, has_tower=has_tower)
        if isinstance(parent, ObjectPath):
            return put_snapshot(parent, name, source, threads=threads, on_rows=on_rows)
        return write_snapshot(parent, name, source, threads=threads, on_rows=on_rows)

    def write_delta(
        self,
        directory: Path,
        name: str,
        parent: Snapshot,
        *,
        has_tower: bool = True,
        threads: int = 1,
        on_rows: OnRows = lambda _: None,
    ) -> WrittenDelta:
        """Writes what a version changes of `parent`, by the codec of that one."""
        source = self.source(parent.codec, has_tower=has_tower)
        return write_delta(directory, name, source, parent, threads=threads, on_rows=on_rows)

    def source(self, codec: Codec, *, has_tower: bool = True) -> Source:
        """Returns what a snapshot of the checkpoint is made of."""
        tower = self.tower() if has_tower else None
        return Source(
            layout=self.layout,
            codec=codec,
            read_rows=self.read_rows,
            lineage=self.lineage,
            files={} if tower is None else {FILE: tower.data},
            tower=None if tower is None else tower.record,
        )

    def tower(self) -> TowerFile:
        """Returns the model on top as an ONNX file; ConfigError where onnx is missing."""
        job, transforms = self.run.job, self.transforms()
        widths = [route.width_total for route in self.layout.routes]
        num_dense = sum(transform.width for transform in transforms)
        network = build_tower(job.tower, widths, num_dense, job.train.seed)
        names = [name for name, _ in network.named_parameters()]
        saved = {name: self._checkpoint.tensor(f"tower.{name}") for name in names}
        # Copies: torch has no read-only tensors, and a mapping is one.
        network.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in saved.items()})
        data = tower_graph(network, job.tower, sum(widths), transforms)
        dense = tuple(transform.feature.column for transform in transforms)
        return TowerFile(data=data, record=Tower(file=FILE, width=sum(widths), dense=dense))

    def feature_set(self) -> FeatureSet:
        """Returns the features of the run's job."""
        job = self.run.job
        return FeatureSet.build(job.data, job.features, job.feature, job.table)

    def transforms(self) -> tuple[DenseTransform, ...]:
        """Returns the transforms of the numbers, with the statistics of the training data."""
        return build_transforms(self.feature_set(), self.run.profile())

    def close(self) -> None:
        """Closes the checkpoint."""
        self._checkpoint.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _lineage(self) -> Lineage:
        digests = self._checkpoint.content.get("digests")
        job = digests.get("job") if isinstance(digests, dict) else None
        if not isinstance(job, str):
            raise SnapshotError(
                f'a checkpoint of "{self.run.path}" does not name the job it was trained by',
                "take a checkpoint that `muxtable train` wrote",
            )
        return Lineage(
            run=checkpoint_record(self._checkpoint.bundle).lineage,
            job=job,
            step=self.step,
            checkpoint=self._checkpoint.digest,
        )
