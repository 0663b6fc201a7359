"""A short training that says which features deserve more lookups: `table.lookups = "pilot"`.

It trains on the first twentieth of the run's steps (50 to 1,000 of them), every feature with two
lookups, and then measures on the batches that come next how much the loss grows when one feature's
columns are exchanged among the rows of a batch: what the feature is worth. With p as in
`trainer.lookups`, worth x p^c is what values that nothing tells apart cost at c lookups. As many
lookups as two for each open feature are handed out one by one, each to the feature where it lowers
that sum the most; at least one, at most four. Features with exact rows keep one, and leave the
others to the rest.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from itertools import islice

import torch
from torch import Tensor

from features.batches import KeyBatch
from features.dense import build_transforms
from features.parquet import Dataset
from features.profile import Profile
from features.settings import START_LOOKUPS
from trainer.dense_optimizer import DenseOptimizer
from trainer.job import Job
from trainer.lookups import MOST_LOOKUPS, feature_set_of, meeting, open_features
from trainer.losses import binary_cross_entropy
from trainer.model import Model, build_model, choose_device, num_threads
from trainer.order import steps_per_epoch
from trainer.representations.registry import build_layout
from trainer.signals import Interrupted
from trainer.stream import BatchStream

logger = logging.getLogger(__name__)

_SHARE = 20
_FEWEST_STEPS, _MOST_STEPS = 50, 1000
_MEASURED_BATCHES = 20


def by_pilot(
    job: Job,
    dataset: Dataset,
    profile: Profile,
    stop_requested: Callable[[], int | None] = lambda: None,
) -> dict[str, int]:
    """Returns the lookups of the open features by what they are worth; a function of job and data.

    Raises Interrupted where asked to stop meanwhile.
    """
    feature_set = feature_set_of(job)
    names = open_features(job, feature_set)
    if not names:
        return {}
    layout = build_layout(feature_set, profile, job.table)
    model = build_model(
        layout,
        sum(each.width for each in build_transforms(feature_set, profile)),
        job.table,
        job.tower,
        seed=job.train.seed,
        threads=num_threads(job.train),
        device=choose_device(job.train.device),
    )
    per_epoch = steps_per_epoch(dataset.num_rows, job.train.batch_size)
    measured = max(1, min(_MEASURED_BATCHES, per_epoch // 4))
    total = min(per_epoch * job.train.epochs, job.train.max_steps or 2**63)
    steps = min(max(total // _SHARE, _FEWEST_STEPS), _MOST_STEPS, max(per_epoch - measured, 1))
    stream = BatchStream(
        dataset,
        feature_set,
        profile,
        job.data,
        batch_size=job.train.batch_size,
        seed=job.train.seed,
        epoch=0,
        step=0,
        rank=0,
        world_size=1,
    )
    with closing(stream):
        batches = _until(stop_requested, stream)
        _train(model, job, stream, islice(batches, steps))
        worth = _worth(model, islice(batches, measured))
    meets = {name: meeting(layout, profile, name) for name in names}
    chosen = hand_out(worth, meets)
    for name, count in chosen.items():
        logger.info(
            "%s gets %d lookups: the loss grows by %.5f without it, %.0f %% of its values meet one",
            name,
            count,
            worth[name] / measured,
            100 * meets[name],
        )
    return chosen


def hand_out(worth: Mapping[str, float], meets: Mapping[str, float]) -> dict[str, int]:
    """Returns the lookups of the features in `meets`, START_LOOKUPS times their number in all.

    Where every feature has as many as it may, or more lookups help nobody, some are left over.
    """
    chosen = dict.fromkeys(meets, 1)

    def gain(name: str) -> float:
        p, count = meets[name], chosen[name]
        return max(worth[name], 0.0) * (p**count - p ** (count + 1))

    for _ in range((START_LOOKUPS - 1) * len(meets)):
        able = [name for name in meets if chosen[name] < MOST_LOOKUPS and gain(name) > 0]
        if not able:
            break
        chosen[max(able, key=gain)] += 1
    return chosen


def _until(stop_requested: Callable[[], int | None], stream: BatchStream) -> Iterator[KeyBatch]:
    for batch in stream:
        if stop_requested() is not None:
            raise Interrupted
        yield batch


def _train(model: Model, job: Job, stream: BatchStream, batches: Iterator[KeyBatch]) -> None:
    optimizer = DenseOptimizer(model.tower, job.train)
    model.tower.train()
    for step, batch in enumerate(batches):
        model.tower.seed_dropout(job.train.seed, step, stream.runs(step))
        loss = _loss(model, batch, model.embed(model.route(batch)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _worth(model: Model, batches: Iterator[KeyBatch]) -> dict[str, float]:
    """Returns by how much the losses of all batches together grow without each feature."""
    model.tower.eval()
    grown = dict.fromkeys((route.name for route in model.layout.routes), 0.0)
    with torch.inference_mode():
        for batch in batches:
            vectors = model.embed(model.route(batch))
            whole = _loss(model, batch, vectors).item()
            for route in model.layout.routes:
                columns = slice(route.column, route.column + route.width_total)
                exchanged = vectors.clone()
                # Rows of a batch are in random order: the neighbour's columns are anybody's.
                exchanged[:, columns] = vectors[:, columns].roll(1, 0)
                grown[route.name] += _loss(model, batch, exchanged).item() - whole
    return grown


def _loss(model: Model, batch: KeyBatch, vectors: Tensor) -> Tensor:
    assert batch.label is not None  # noqa: S101 the feature set names the label
    weight = None if batch.weight is None else model.tensor(batch.weight)
    logits = model.tower(vectors, model.tensor(batch.dense))
    return binary_cross_entropy(logits, model.tensor(batch.label), weight)
