import dataclasses
import gc
import itertools
import signal
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import DataError
from features.parquet import Reader, open_dataset
from features.profile import build_profile
from features.schema import FeatureSet
from features.settings import DataSettings, FeaturesSettings, TableSettings
from tests.trainer import order_reference, stream_data
from tests.trainer.stream_data import DATA, FEATURES, facts, first_rows, rows_in
from trainer.order import MAX_UNIT_ROWS
from trainer.sources import BlockReader, ReadAhead, Source
from trainer.stream import BatchStream, FileStream

GROUPS = [[23, 9], [0, 31], [14]]


def data_settings(**changes):
    return DATA.model_copy(update={"streams": 3, "block_rows": 8} | changes)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A dataset of five row groups in three files, with its profile."""
    dataset = stream_data.write_files(tmp_path_factory.mktemp("small"), GROUPS)
    return dataset, stream_data.profile_of(dataset)


@pytest.fixture
def stream_of(small):
    """Makes streams over the small dataset, closed at the end."""
    dataset, profile = small
    opened = []

    def make(chosen=None, **position):
        position = {"batch_size": 10, "seed": 5, "epoch": 0} | position
        stream = BatchStream(dataset, FEATURES, profile, chosen or data_settings(), **position)
        opened.append(stream)
        return stream

    yield make
    for stream in opened:
        stream.close()


def stream_threads():
    return [t for t in threading.enumerate() if t.name.startswith(("read_", "assemble_"))]


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def expected_rows(row_groups, chosen, *, batch_size, seed, epoch):
    first = first_rows(row_groups)
    batches = order_reference.epoch_batches(
        row_groups,
        batch_size=batch_size,
        streams=chosen.streams,
        block_rows=chosen.block_rows,
        shuffle=chosen.shuffle,
        seed=seed,
        epoch=epoch,
    )
    return [[[first[f, g] + r for f, g, r in rows] for rows in batch] for batch in batches]


@given(
    row_groups=st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=1, max_size=3).filter(
        lambda groups: sum(map(sum, groups)) > 0
    ),
    streams=st.integers(1, 5),
    world_size=st.integers(1, 5),
    block_rows=st.integers(1, 16),
    batch_size=st.integers(1, 25),
    shuffle=st.booleans(),
    prefetch=st.integers(0, 3),
    read_threads=st.integers(1, 3),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_any_rank_gets_its_streams_rows_of_every_global_batch(
    row_groups, streams, world_size, block_rows, batch_size, shuffle, prefetch, read_threads, data
):
    streams = max(streams, world_size)
    rank = data.draw(st.integers(0, world_size - 1), label="rank")
    chosen = data_settings(
        streams=streams,
        block_rows=block_rows,
        shuffle=shuffle,
        prefetch=prefetch,
        read_threads=read_threads,
    )
    batches = expected_rows(row_groups, chosen, batch_size=batch_size, seed=3, epoch=1)
    step = data.draw(st.integers(0, len(batches)), label="step")

    with tempfile.TemporaryDirectory() as folder:
        dataset = stream_data.write_files(Path(folder), row_groups)
        stream = BatchStream(
            dataset,
            FEATURES,
            stream_data.profile_of(dataset),
            chosen,
            batch_size=batch_size,
            seed=3,
            epoch=1,
            step=step,
            rank=rank,
            world_size=world_size,
        )
        sizes = [stream.sizes(s) for s in range(step, len(batches))]
        given_rows = [rows_in(batch) for batch in stream]

    assert given_rows == [flat(batch[rank::world_size]) for batch in batches[step:]]
    assert sizes == [
        tuple(sum(map(len, batch[r::world_size])) for r in range(world_size))
        for batch in batches[step:]
    ]


def test_what_belongs_to_a_row_stays_with_it(small, stream_of):
    dataset, profile = small
    with FileStream(dataset, FEATURES, profile, batch_size=7) as stream:
        in_order = {row: said for item in stream for row, said in facts(item.batch).items()}

    shuffled = {row: said for batch in stream_of() for row, said in facts(batch).items()}

    assert list(shuffled) != list(in_order)
    assert shuffled == in_order


def test_a_file_stream_says_which_rows_of_which_file_it_gives(small):
    dataset, profile = small
    starts = [0, 32, 63]

    with FileStream(dataset, FEATURES, profile, batch_size=10) as stream:
        items = list(stream)

    assert [row for item in items for row in rows_in(item.batch)] == list(range(77))
    for item in items:
        first = starts[item.file] + item.first_row
        assert rows_in(item.batch) == list(range(first, first + item.batch.num_rows))


def test_the_keys_of_univalent_features_are_rows_of_one_matrix(stream_of):
    batch = next(stream_of())

    names = [feature.name for feature in FEATURES.univalent]
    assert batch.matrix.shape == (len(names), 10)
    assert batch.matrix.flags.c_contiguous
    for place, name in enumerate(names):
        assert np.shares_memory(batch.columns[name].keys, batch.matrix[place])
        assert np.shares_memory(batch.columns[name].nulls, batch.null_matrix[place])


def test_labels_are_not_needed_where_the_feature_set_names_none(small):
    dataset, profile = small
    unlabelled = dataclasses.replace(FEATURES, label=None, weight=None)

    with FileStream(dataset, unlabelled, profile, batch_size=100) as stream:
        item = next(stream)

    assert item.batch.label is None
    assert item.batch.weight is None
    assert item.batch.num_rows == 23


@pytest.mark.parametrize("stops", [[0], [1], [4], [7], [8], [3, 3], [2, 5], [1, 4, 7], [7, 8]])
def test_stopping_and_resuming_loses_and_repeats_nothing(stream_of, stops):
    epochs = range(3)
    whole = [rows_in(batch) for epoch in epochs for batch in stream_of(epoch=epoch)]

    resumed = []
    for epoch in epochs:
        step = 0
        # Epoch 1 is cut at each stop; the position is that of what was delivered, not read ahead.
        for stop in stops if epoch == 1 else []:
            stream = stream_of(epoch=epoch, step=step)
            while stream.step < stop:
                resumed.append(rows_in(next(stream)))
            step = stream.step
            stream.close()
        resumed += [rows_in(batch) for batch in stream_of(epoch=epoch, step=step)]

    assert resumed == whole


@given(worlds=st.lists(st.integers(1, 4), min_size=3, max_size=3), cuts=st.data())
def test_a_change_of_the_world_size_loses_and_repeats_nothing(small, worlds, cuts):
    dataset, profile = small
    chosen = data_settings(streams=5)
    place = {"batch_size": 10, "seed": 5, "epoch": 1}
    with BatchStream(dataset, FEATURES, profile, chosen, **place) as stream:
        num_steps = stream.num_steps
        whole = [sorted(rows_in(batch)) for batch in stream]
    marks = sorted(cuts.draw(st.lists(st.integers(0, num_steps), min_size=2, max_size=2)))

    seen = []
    for world_size, first, last in zip(worlds, [0, *marks], [*marks, num_steps], strict=True):
        batches = [[] for _ in range(first, last)]
        for rank in range(world_size):
            part = {**place, "step": first, "rank": rank, "world_size": world_size}
            with BatchStream(dataset, FEATURES, profile, chosen, **part) as stream:
                for batch in batches:
                    batch += rows_in(next(stream))
        seen += [sorted(batch) for batch in batches]

    assert seen == whole
    assert sorted(flat(seen)) == list(range(sum(map(sum, GROUPS))))


def test_a_stream_at_the_end_of_the_epoch_gives_nothing(stream_of):
    stream = stream_of(step=8)

    batches = list(stream)

    assert (batches, stream.num_steps, stream.step) == ([], 8, 8)


def test_a_rank_without_rows_gets_empty_batches(stream_of):
    chosen = data_settings(streams=40, block_rows=64)

    batches = list(stream_of(chosen, rank=30, world_size=40))

    assert [batch.num_rows for batch in batches] == [0] * 8
    assert batches[0].dense.shape == (0, 2)
    assert batches[0].columns["tags"].offsets.tolist() == [0]


def test_reading_ahead_stops_at_the_next_block_of_each_stream(tmp_path, monkeypatch):
    dataset = stream_data.write_files(tmp_path, [[64], [64]])
    profile = stream_data.profile_of(dataset)
    read = []
    original = BlockReader.read
    monkeypatch.setattr(
        BlockReader, "read", lambda self, number: read.append(number) or original(self, number)
    )

    with BatchStream(
        dataset, FEATURES, profile, data_settings(prefetch=1), batch_size=10, seed=0, epoch=0
    ) as stream:
        next(stream)
        deadline = time.monotonic() + 5
        while len(read) < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)

    # Two batches of ten take at most seven of the eight rows of each of the three streams' blocks.
    assert len(read) == 6


@pytest.mark.parametrize("streams", [1, 4, 7])
def test_the_rows_held_are_bounded_and_no_stream_waits_for_a_read_to_begin(
    tmp_path, monkeypatch, streams
):
    dataset = stream_data.write_files(tmp_path, [[64] * 5, [48] * 4])
    held, late = [], []
    fill, receive = ReadAhead.fill, Source._receive

    def watched_fill(self):
        fill(self)
        held.append(sum(source.rows_held for source in self._sources))

    def watched_receive(self):
        late.append(self._waiting is None)
        receive(self)

    monkeypatch.setattr(ReadAhead, "fill", watched_fill)
    monkeypatch.setattr(Source, "_receive", watched_receive)
    chosen = data_settings(streams=streams, block_rows=16)

    with BatchStream(
        dataset, FEATURES, stream_data.profile_of(dataset), chosen, batch_size=10, seed=0, epoch=0
    ) as stream:
        num_rows = sum(batch.num_rows for batch in stream)

    assert num_rows == 512
    assert max(held) <= (streams + 2) * 16
    assert len(late) == len(stream._order.blocks.num_rows)
    assert not any(late)


def test_resuming_reads_only_the_blocks_the_streams_stand_in(stream_of, monkeypatch):
    read = []
    original = BlockReader.read
    monkeypatch.setattr(
        BlockReader, "read", lambda self, number: read.append(number) or original(self, number)
    )
    chosen = data_settings(prefetch=0)
    order = stream_of(chosen, step=6)._order

    next(stream_of(chosen, step=6))

    standing = {
        int(order.stream_blocks[stream][order.seek(6, stream)[0]])
        for stream in range(3)
        if order.seek(6, stream)[0] < len(order.stream_blocks[stream])
    }
    behind = {
        int(number)
        for stream in range(3)
        for number in order.stream_blocks[stream][: order.seek(6, stream)[0]]
    }
    assert standing <= set(read)
    assert behind
    assert not behind & set(read)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Twelve row groups of 131,072 rows, the largest that are cut into blocks."""
    folder = tmp_path_factory.mktemp("wide")
    rows = np.arange(12 * MAX_UNIT_ROWS)
    columns = {f"id{i}": rows % (1000 * i + 7) for i in range(8)}
    table = pa.table({"row": rows, **columns, "price": rows / 7, "label": rows % 2})
    pq.write_table(table, folder / "wide.parquet", row_group_size=MAX_UNIT_ROWS)
    chosen = DataSettings(train="wide.parquet", label="label")
    features = FeatureSet.build(
        chosen,
        FeaturesSettings(categorical=["row", *columns], dense=["price"]),
        {},
        TableSettings(rows=1000),
    )
    dataset = open_dataset("wide.parquet", folder)
    return dataset, features, build_profile(dataset, features, TableSettings(rows=1000)), chosen


def test_the_first_batch_after_a_resume_comes_within_a_second(wide):
    dataset, features, profile, chosen = wide
    seconds = []

    for step in (0, 150, 300):
        begin = time.perf_counter()
        stream = BatchStream(
            dataset, features, profile, chosen, batch_size=4096, seed=0, epoch=0, step=step
        )
        next(stream)
        seconds.append(time.perf_counter() - begin)
        stream.close()

    assert statistics.median(seconds) < 1


def test_memory_that_is_used_again_changes_no_batch_given_before(wide):
    dataset, features, profile, chosen = wide
    chosen = chosen.model_copy(update={"read_threads": 2})

    with BatchStream(
        dataset, features, profile, chosen, batch_size=10_000, seed=0, epoch=0
    ) as stream:
        batches = list(stream)

    rows = np.concatenate([batch.columns["row"].keys for batch in batches])
    assert np.array_equal(np.sort(rows), np.arange(12 * MAX_UNIT_ROWS))
    for i in range(8):
        ids = np.concatenate([batch.columns[f"id{i}"].keys for batch in batches])
        assert np.array_equal(ids, rows % (1000 * i + 7))
    labels = np.concatenate([batch.label for batch in batches])
    assert np.array_equal(labels, rows % 2)


def write_large_row_group(folder):
    rows = 2 * MAX_UNIT_ROWS + 100
    table = pa.table({"row": np.arange(rows), "label": np.arange(rows) % 2})
    pq.write_table(table, folder / "large.parquet", row_group_size=rows)
    chosen = DataSettings(train="large.parquet", label="label", streams=1)
    features = FeatureSet.build(
        chosen, FeaturesSettings(categorical=["row"]), {}, TableSettings(rows=100)
    )
    dataset = open_dataset("large.parquet", folder)
    return dataset, features, build_profile(dataset, features, TableSettings(rows=100)), chosen


def test_a_large_row_group_is_read_forward_with_a_warning(tmp_path, caplog):
    dataset, features, profile, chosen = write_large_row_group(tmp_path)
    position = {"batch_size": 30_000, "seed": 1, "epoch": 0}

    whole = [
        rows_in(batch) for batch in BatchStream(dataset, features, profile, chosen, **position)
    ]
    resumed = [
        rows_in(batch)
        for batch in BatchStream(dataset, features, profile, chosen, **position, step=5)
    ]

    assert (
        "row group 0 has 262244 rows: row groups over 131072 rows are read forward" in caplog.text
    )
    assert sorted(flat(whole)) == list(range(2 * MAX_UNIT_ROWS + 100))
    assert set(whole[0]) <= set(range(65_536))
    assert resumed == whole[5:]


@pytest.mark.parametrize(("world_size", "idle"), [(2, None), (9, 5)])
def test_ranks_that_read_nothing_are_warned_of_once(stream_of, caplog, world_size, idle):
    chosen = data_settings(streams=12, block_rows=64)

    for rank in (0, 1):
        stream_of(chosen, rank=rank, world_size=world_size)

    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (idle is not None)
    assert idle is None or f"so {idle} of the {world_size} ranks read nothing" in said[0]


def test_a_file_stream_reads_a_large_row_group_in_order(tmp_path):
    dataset, features, profile, _ = write_large_row_group(tmp_path)

    with FileStream(dataset, features, profile, batch_size=50_000) as stream:
        rows = [row for item in stream for row in rows_in(item.batch)]

    assert rows == list(range(2 * MAX_UNIT_ROWS + 100))


def damage(path, row_group):
    """Overwrites the pages of a row group."""
    chunk = pq.ParquetFile(path).metadata.row_group(row_group).column(0)
    start = min(filter(None, [chunk.dictionary_page_offset, chunk.data_page_offset]))
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * chunk.total_compressed_size)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_in_a_thread_names_file_and_row_group_and_ends_the_threads(tmp_path, prefetch):
    dataset = stream_data.write_files(tmp_path, GROUPS)
    profile = stream_data.profile_of(dataset)
    damage(tmp_path / "part-001.parquet", 1)
    damaged = open_dataset("*.parquet", tmp_path)
    stream = BatchStream(
        damaged, FEATURES, profile, data_settings(prefetch=prefetch), batch_size=10, seed=0, epoch=0
    )

    with pytest.raises(DataError, match=r"part-001\.parquet, row group 1: cannot be read"):
        list(stream)

    assert not stream_threads()
    with pytest.raises(ValueError, match="closed"):
        next(stream)


def test_a_bad_label_is_named_with_its_row(tmp_path):
    good = stream_data.write_files(tmp_path, [[20]])
    profile = stream_data.profile_of(good)
    table = stream_data.table_of(0, 20)
    labels = pa.array([0, 1] * 9 + [3, 0], pa.int8())
    place = table.schema.get_field_index("label")
    pq.write_table(table.set_column(place, "label", labels), tmp_path / "part-000.parquet")
    dataset = open_dataset("*.parquet", tmp_path)

    with (
        FileStream(dataset, FEATURES, profile, batch_size=10) as stream,
        pytest.raises(DataError, match='row group 0: label column "label" is 3 in row 18'),
    ):
        list(stream)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    dataset = stream_data.write_files(tmp_path, GROUPS)
    profile = stream_data.profile_of(dataset)
    pq.write_table(stream_data.table_of(500, 40), tmp_path / "part-002.parquet")

    with (
        FileStream(dataset, FEATURES, profile, batch_size=10) as stream,
        pytest.raises(DataError, match=r"part-002\.parquet: the file changed while it was in use"),
    ):
        list(stream)


def test_ids_of_another_class_than_trained_on_are_refused(tmp_path):
    (tmp_path / "ints").mkdir()
    (tmp_path / "strings").mkdir()
    profile = stream_data.profile_of(stream_data.write_files(tmp_path / "ints", [[20]]))
    table = stream_data.table_of(0, 20)
    strings = table.column("row").cast(pa.string())
    pq.write_table(table.set_column(0, "row", strings), tmp_path / "strings" / "part.parquet")
    dataset = open_dataset("*.parquet", tmp_path / "strings")

    with (
        FileStream(dataset, FEATURES, profile, batch_size=10) as stream,
        pytest.raises(DataError, match="trained on integers"),
    ):
        list(stream)


def test_closing_ends_the_threads(stream_of):
    stream = stream_of()
    next(stream)

    stream.close()

    assert not stream_threads()
    with pytest.raises(ValueError, match="closed"):
        next(stream)


def test_a_stream_that_was_read_to_its_end_has_ended_its_threads(stream_of):
    stream = stream_of()

    num_rows = sum(batch.num_rows for batch in stream)

    assert num_rows == 77
    assert not stream_threads()


def test_a_forgotten_stream_ends_its_threads(small):
    dataset, profile = small
    stream = BatchStream(
        dataset, FEATURES, profile, data_settings(), batch_size=10, seed=0, epoch=0
    )
    next(stream)

    del stream
    gc.collect()

    deadline = time.monotonic() + 5
    while stream_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not stream_threads()


@pytest.mark.parametrize("prefetch", [0, 2])
def test_ctrl_c_while_waiting_for_a_block_ends_the_threads(stream_of, monkeypatch, prefetch):
    original = Reader.rows

    def slow(self, *place):
        time.sleep(0.3)
        return original(self, *place)

    monkeypatch.setattr(Reader, "rows", slow)
    stream = stream_of(data_settings(prefetch=prefetch))
    threading.Timer(0.1, signal.raise_signal, [signal.SIGINT]).start()

    with pytest.raises(KeyboardInterrupt):
        next(stream)

    assert not stream_threads()
