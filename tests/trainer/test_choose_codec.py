import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.errors import CodecError, ConfigError
from features.parquet import open_dataset
from storage.codecs import codec_named
from tests.trainer.clicks import clicks_job, write_clicks
from trainer.choose_codec import Subject, Trial, candidates, choose, try_codecs
from trainer.codec_chart import draw_trials, front
from trainer.evaluate import evaluate, load_model
from trainer.export import Export
from trainer.model import Model
from trainer.train import train

CODECS = ("float16", "int8", "int4", "int2", "pq:4x8", "pca:4+int8", "prefix:1+int8")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clicks")
    write_clicks(folder)
    job = clicks_job(table={"rows": 300, "width": 8, "lookups": 2, "exact_below": 0})
    return train(job, folder / "run", folder).run


@pytest.fixture
def subject(run, tmp_path):
    with Export(run) as export:
        yield Subject(
            trained=load_model(run),
            read_rows=export.read_rows,
            make=export.codec,
            dataset=open_dataset("valid/*.parquet", run.base),
            scratch=tmp_path,
            buffer=5000,
        )


def test_the_rows_themselves_come_first_and_lose_nothing(run, subject):
    first, *others = try_codecs(subject, CODECS)

    assert [trial.codec for trial in (first, *others)] == ["float32", *CODECS]
    assert first.auc == run.result()["metrics"]["valid"]["auc"]
    assert first.auc_loss == first.relative_error == 0
    assert first.bits_per_weight == 32
    assert first.table_bytes == 300 * 32
    assert all(trial.auc_loss == first.auc - trial.auc for trial in others)
    by_name = {trial.codec: trial for trial in others}
    assert by_name["int8"].relative_error < by_name["int4"].relative_error
    assert by_name["int8"].bits_per_weight == 16
    assert by_name["int8"].auc_loss < 0.001
    assert abs(by_name["int8"].auc_loss) < abs(by_name["int2"].auc_loss)
    assert by_name["pq:4x8"].table_bytes == 300 * 4 + 4 * 256 * 2 * 4
    assert by_name["prefix:1+int8"].auc_loss > 0.01
    assert by_name["prefix:1+int8"].reply_bytes == by_name["int8"].reply_bytes / 2


class FirstLookups(Model):
    """A model whose features have the vector of their first lookup, and zeros."""

    def logits(self, rows, dense):
        vectors = self.engine.lookup(rows).clone()
        for route in self.layout.routes:
            vectors[:, route.column + self.layout.width : route.column + route.width_total] = 0
        return self.tower(vectors, self.tensor(dense))


@pytest.mark.parametrize(("text", "model"), [("int4", Model), ("prefix:1+int4", FirstLookups)])
def test_the_auc_of_a_codec_is_that_of_its_decoded_rows(text, model, run, subject, tmp_path):
    _, found = try_codecs(subject, [text])

    again = load_model(run)
    rows = again.model.engine.state()["weight"]
    codec = codec_named(text)(8)
    rows[:] = codec.decode(codec.encode(np.ascontiguousarray(rows)))
    of = again.model
    metrics = evaluate(
        model(of.layout, of.engine, of.tower, of.device),
        subject.dataset,
        again.feature_set,
        again.profile,
        scratch=tmp_path,
        buffer=5000,
    )
    assert metrics.auc == found.auc


def test_the_model_has_its_own_rows_again_in_the_end(subject):
    before = subject.trained.model.engine.state()["weight"].copy()

    list(try_codecs(subject, ["int2"]))

    assert np.array_equal(subject.trained.model.engine.state()["weight"], before)


def test_what_is_worth_a_try_suits_the_table(subject):
    texts = candidates(subject.layout)

    assert texts[0] == "float32"
    assert {"int8", "int4", "pq:4x8", "opq:2x8", "pca:6+int8", "prefix:1+int8"} <= set(texts)
    for text in texts:
        assert subject.make(codec_named(text)).text == text


def test_a_codec_that_does_not_suit_is_refused(subject):
    with pytest.raises(CodecError, match="5 equal parts"):
        list(try_codecs(subject, ["pq:5x8"]))


def test_labels_that_are_all_alike_are_refused(run, subject, tmp_path):
    table = pq.read_table(run.base / "valid" / "0.parquet")
    clicked = table.filter(table["click"].to_numpy() == 1)
    pq.write_table(clicked, tmp_path / "clicked.parquet")
    alike = dataclasses.replace(subject, dataset=open_dataset("clicked.parquet", tmp_path))

    with pytest.raises(ConfigError, match="their labels are all alike"):
        next(try_codecs(alike, []))


def trial(codec, table_bytes, auc_loss):
    return Trial(
        codec=codec,
        row_bytes=1,
        table_bytes=table_bytes,
        reply_bytes=1,
        bits_per_weight=1.0,
        relative_error=0.0,
        largest_error=0.0,
        auc=0.8 - auc_loss,
        auc_loss=auc_loss,
        log_loss=None,
    )


TRIALS = [
    trial("float32", 400, 0.0),
    trial("int8", 110, 0.0001),
    trial("prefix:1+int8", 110, 0.02),
    trial("int4", 60, 0.0009),
    trial("helps", 300, -0.001),
]


@pytest.mark.parametrize(
    ("limit", "codec"), [(0.0, "helps"), (0.0001, "int8"), (0.001, "int4"), (1, "int4")]
)
def test_the_smallest_codec_that_holds_is_chosen(limit, codec):
    assert choose(TRIALS, limit).codec == codec


def test_a_limit_that_nothing_holds_or_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="none of 1 codecs"):
        choose(TRIALS[2:3], 0.001)
    for limit in (-0.1, float("nan")):
        with pytest.raises(ConfigError, match="give 0 or more"):
            choose(TRIALS, limit)


def test_the_front_is_what_no_smaller_codec_beats(tmp_path):
    assert [each.codec for each in front(TRIALS)] == ["int4", "int8", "helps"]

    draw_trials(TRIALS, tmp_path / "codecs.png", "bytes against AUC")

    assert (tmp_path / "codecs.png").read_bytes().startswith(b"\x89PNG")
