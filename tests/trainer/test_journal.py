import builtins
import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from features.errors import ConfigError, SnapshotError
from trainer.journal import Journal, read_journal


def test_lines_hold_what_was_written(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"

    with Journal(path, 0, 0, None) as journal:
        journal.write("train", 50, {"loss": 0.5, "epoch": 0})
        journal.write("valid", 50, {"auc": None, "log_loss": float("nan")})

    assert read_journal(path) == [
        {"kind": "train", "step": 50, "loss": 0.5, "epoch": 0},
        {"kind": "valid", "step": 50, "auc": None, "log_loss": None},
    ]


def test_resume_cuts_the_file_back_to_the_checkpoint(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Journal(path, 0, 0, None) as journal:
        journal.write("train", 50, {"loss": 0.5})
        offset = journal.sync()
        journal.write("train", 100, {"loss": 0.4})
    whole = path.read_bytes()

    with Journal(path, offset, 50, None) as journal:
        at_start = journal.sync()
        journal.write("train", 100, {"loss": 0.4})

    assert at_start == offset
    assert path.read_bytes() == whole


def test_a_file_shorter_than_at_the_checkpoint_is_refused_untouched(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("{}\n")

    with pytest.raises(SnapshotError, match=r"metrics.jsonl\" has 3 bytes, 900 when"):
        Journal(path, 900, 50, None)

    assert path.read_text() == "{}\n"


def test_the_unfinished_last_line_of_a_killed_run_is_left_out(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')

    lines = read_journal(path)

    assert lines == [{"step": 1}]


def test_tensorboard_shows_the_numbers_and_forgets_what_a_resume_redoes(tmp_path) -> None:
    path, folder = tmp_path / "metrics.jsonl", tmp_path / "tensorboard"
    with Journal(path, 0, 0, folder) as journal:
        journal.write("train", 50, {"loss": 0.5, "epoch": 0})
        offset = journal.sync()
        journal.write("train", 100, {"loss": 9.0})

    with Journal(path, offset, 50, folder) as journal:
        journal.write("train", 100, {"loss": 0.4})
    events = EventAccumulator(str(folder)).Reload()

    assert events.Tags()["scalars"] == ["train/loss"]
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("train/loss")] == [
        (50, 0.5),
        (100, 0.4),
    ]


def test_missing_tensorboard_is_said_before_anything_is_cut(tmp_path, monkeypatch) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1}) + "\n")
    real = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if "tensorboard" in name:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)

    with pytest.raises(ConfigError, match="tensorboard is not installed"):
        Journal(path, 0, 0, tmp_path / "tensorboard")

    assert path.read_text() == '{"step": 1}\n'
