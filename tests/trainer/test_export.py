from dataclasses import replace

import numpy as np
import pytest

from features.batches import KeyBatch, KeyColumn
from features.errors import SnapshotError
from features.parquet import open_dataset
from storage.chain import open_checkpoint
from storage.codecs import codec_named
from storage.snapshot import open_snapshot
from tests.storage.test_snapshot import files_of
from tests.trainer.clicks import clicks_job, write_clicks
from trainer.evaluate import load_model
from trainer.export import Export
from trainer.stream import FileStream
from trainer.train import train

VALUES = 1_000_000
CODECS = ("float32", "bfloat16", "int8", "int4", "float8", "binary:1", "pq:2x8", "pca:2+int8")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a feature of every kind: exact, hashed, list, sequence, cross, bucketized."""
    folder = tmp_path_factory.mktemp("clicks")
    write_clicks(folder)
    job = clicks_job(
        features={
            "categorical": ["user", "item"],
            "list": ["tags"],
            "sequence": ["last_tags", "mean_tags"],
            "cross": {"user_item": ["user", "item"]},
            "dense": ["price", "band"],
        },
        feature={
            "user": {"lookups": 3},
            "tags": {"pooling": "sum", "multiplexed": False},
            "last_tags": {"column": "tags", "pooling": "last"},
            "mean_tags": {"column": "tags", "max_length": 2},
            "band": {"column": "price", "bucketize": 6},
        },
        table={"rows": 1000, "width": 4, "exact_below": 40},
        run={"deltas": 5, "keep": 20},
    )
    return train(job, folder / "run", folder).run


@pytest.fixture(scope="module")
def version(run, tmp_path_factory):
    with Export(run) as export:
        written = export.write(
            tmp_path_factory.mktemp("versions"), "v-0000000001", codec_named("float32")(4)
        )
    return written.path


def test_a_version_looks_up_what_the_trainer_looks_up_bit_for_bit(run, version):
    trained = load_model(run)
    model, dataset = trained.model, open_dataset("test", run.base)
    with (
        open_snapshot(version) as snapshot,
        FileStream(dataset, trained.feature_set, trained.profile, batch_size=200) as stream,
    ):
        for item in stream:
            expected = model.engine.lookup(model.route(item.batch)).detach().numpy()

            np.testing.assert_array_equal(snapshot.embed(item.batch.columns), expected)


def test_a_million_values_of_every_feature_are_looked_up_as_in_training(run, version):
    model = load_model(run).model
    rng = np.random.default_rng(0)
    columns = {}
    for route in model.layout.routes:
        keys = rng.integers(0, 2**64, VALUES, dtype=np.uint64)
        offsets = None
        nulls = (rng.random(VALUES) < 0.01).astype(np.uint8)
        if route.vocabulary is not None:
            keys[: VALUES // 2] = rng.choice(route.vocabulary, VALUES // 2)
        if route.feature.is_bag:
            offsets, nulls = np.arange(VALUES + 1), None
            offsets[1:-1:5] += 1  # lists of 0, 1 and 2 values
        columns[route.name] = KeyColumn(
            keys if nulls is None else np.where(nulls == 1, np.uint64(0), keys), nulls, offsets
        )
    batch = KeyBatch(VALUES, columns, None, None, np.empty((VALUES, 0), np.float32))
    expected = model.engine.lookup(model.route(batch)).detach().numpy()

    with open_snapshot(version) as snapshot:
        for route in snapshot.layout.routes:
            found = snapshot.lookup(route.name, columns[route.name])

            end = route.column + route.width_total
            assert (found == expected[:, route.column : end]).all()


@pytest.mark.parametrize("text", CODECS)
def test_a_version_by_any_codec_is_the_decoded_table(run, tmp_path, text):
    with Export(run) as export:
        codec = export.codec(codec_named(text))
        written = export.write(tmp_path, "v-0000000001", codec, has_tower=False)
        rows = export.read_rows(0, export.layout.rows)
        decoded = codec.decode(codec.encode(rows))

    with open_snapshot(written.path) as snapshot:
        keys = KeyColumn(np.arange(500, dtype=np.uint64) * 7)
        numbers = snapshot.layout.rows_of("user", keys)
        expected = decoded[numbers.T].reshape(500, -1)
        np.testing.assert_array_equal(snapshot.lookup("user", keys), expected)
        difference = np.linalg.norm(decoded - rows) / np.linalg.norm(rows)
        assert snapshot.record.error.relative == pytest.approx(difference, rel=1e-4)


def test_lookups_that_a_prefix_leaves_out_are_zeros(run, tmp_path):
    with Export(run) as export:
        written = export.write(tmp_path, "v-0000000001", export.codec(codec_named("prefix:1+int8")))
    keys = KeyColumn(np.arange(50, dtype=np.uint64))
    bags = KeyColumn(np.arange(50, dtype=np.uint64), None, np.arange(51))

    with open_snapshot(written.path) as snapshot:
        user, tags = snapshot.lookup("user", keys), snapshot.lookup("tags", bags)

    assert (user[:, :4] != 0).all()
    assert (user[:, 4:] == 0).all()
    assert (tags[:, :4] != 0).all()
    assert (tags[:, 4:] == 0).all()


def test_a_checkpoint_that_is_a_delta_is_exported_like_a_whole_one(run, tmp_path):
    names = sorted(path.name for path in run.checkpoints.glob("step-*"))
    bases = {}
    for name in names:
        with open_checkpoint(run.checkpoints / name) as checkpoint:
            bases[name] = checkpoint.base is not None
    (delta, *_) = [name for name in names if bases[name]]
    step = int(delta.removeprefix("step-").partition("-")[0])

    with Export(run, step) as export, open_checkpoint(run.checkpoints / delta) as checkpoint:
        written = export.write(tmp_path, "v-0000000001", codec_named("float32")(4))
        table = checkpoint.tensor("table.weight")

    with open_snapshot(written.path) as snapshot:
        np.testing.assert_array_equal(snapshot.rows.view("<f4"), table)
        assert snapshot.record.lineage.step == step


def test_number_of_threads_and_parts_leave_the_bytes_as_they_are(run, tmp_path):
    with Export(run) as export:
        codec = export.codec(codec_named("pca:2+int8"))
        paths = [
            export.write(tmp_path / str(threads), "v-0000000001", codec, threads=threads).path
            for threads in (1, 3)
        ]

    assert files_of(paths[0]) == files_of(paths[1])


def test_a_run_without_a_checkpoint_says_so(run, tmp_path):
    (tmp_path / "checkpoints").mkdir()

    with pytest.raises(SnapshotError, match="holds no checkpoint"):
        Export(replace(run, path=tmp_path, base=tmp_path))
