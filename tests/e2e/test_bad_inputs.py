"""What a person can get wrong, and what the real command says of it.

One screen, no traceback, exit code 2 (1 where the work failed on the way), nothing half-written.
Mistakes in files are shown to `plan`, which checks them as `train` does and needs no torch, and
some of them to `train` as well.
"""

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.launch.command import muxtable

ROWS = 400

JOB = """
[data]
train = "train.parquet"
valid = "valid.parquet"
label = "click"

[features]
categorical = ["user", "city"]
dense = ["price"]

[table]
rows = 200
width = 4
exact_below = 10

[tower]
hidden = [4]

[train]
batch_size = 100
threads = 1

[run]
dir = "run"
tensorboard = false
"""


def rows(**changes) -> pa.Table:
    """A small log; `changes` replace columns, None leaves one out."""
    rng = np.random.default_rng(0)
    columns = {
        "user": rng.integers(0, 50, ROWS),
        "city": [f"city {i}" for i in rng.integers(0, 5, ROWS)],
        "price": rng.exponential(2, ROWS),
        "click": rng.integers(0, 2, ROWS),
        **changes,
    }
    return pa.table({name: values for name, values in columns.items() if values is not None})


def write(folder: Path, name: str = "train.parquet", **changes) -> None:
    pq.write_table(rows(**changes), folder / name)


def job(old: str, new: str) -> Callable[[Path], None]:
    """Replaces a line of the job file."""

    def change(folder: Path) -> None:
        text = (folder / "job.toml").read_text()
        assert old in text
        (folder / "job.toml").write_text(text.replace(old, new))

    return change


def add(text: str) -> Callable[[Path], None]:
    """Adds to the job file."""
    return lambda folder: (folder / "job.toml").write_text((folder / "job.toml").read_text() + text)


def data(name: str = "train.parquet", **changes) -> Callable[[Path], None]:
    """Writes a file anew with other columns."""
    return lambda folder: write(folder, name, **changes)


def truncate(folder: Path) -> None:
    content = (folder / "train.parquet").read_bytes()
    (folder / "train.parquet").write_bytes(content[: len(content) // 2])


def damage(folder: Path) -> None:
    """Overwrites the middle of the pages: the footer stays whole."""
    write_with_checksums(folder)
    content = bytearray((folder / "train.parquet").read_bytes())
    content[200:1000] = bytes(800)
    (folder / "train.parquet").write_bytes(content)


def write_with_checksums(folder: Path) -> None:
    pq.write_table(rows(), folder / "train.parquet", write_page_checksum=True)


def with_values(column: str, place: int, value: object) -> Callable[[Path], None]:
    """Puts one bad value into a column."""

    def change(folder: Path) -> None:
        values = rows()[column].to_pylist()
        values[place] = value
        write(folder, **{column: values})

    return change


@dataclass(frozen=True)
class Bad:
    """A mistake, and words its message must have."""

    name: str
    change: Callable[[Path], object]
    says: Sequence[str]
    code: int = 2
    command: Sequence[str] = ("train", "job.toml")


def nothing(_folder: Path) -> None:
    """The mistake is in the command line."""


CASES = [
    # The job file.
    Bad("no job file", lambda f: (f / "job.toml").unlink(), ["cannot read job file job.toml"]),
    Bad("job file is a folder", lambda f: replace_by_folder(f / "job.toml"), ["job.toml"]),
    Bad("no TOML", add("\nwidth = = 4"), ["job.toml", "line"]),
    Bad("not text", lambda f: (f / "job.toml").write_bytes(b"\xff\xfe"), ["not UTF-8"]),
    Bad("unknown key", job("width = 4", "widht = 4"), ['"table.widht"', '"table.width"']),
    Bad("unknown section", add("\n[tabel]\nrows = 1"), ['"tabel"', '"table"']),
    Bad("missing label", job('label = "click"', ""), ['"data.label" is missing']),
    Bad(
        "none of two types",
        job("rows = 200", 'rows = 200\nlookups = "all"'),
        ['"table.lookups" is'],
    ),
    Bad("text for a number", job("rows = 200", 'rows = "many"'), ["table.rows", '"many"']),
    Bad("number for a text", job('"train.parquet"', "7"), ["data.train", "7"]),
    Bad("out of range", job("width = 4", "width = 0"), ["table.width", "0"]),
    Bad("no size", job("rows = 200", 'budget = "64 mib"'), ["table.budget", "64 MiB"]),
    Bad("budget and rows", job("rows = 200", 'rows = 200\nbudget = "1 MiB"'), ["give one of"]),
    Bad("budget below a row", job("rows = 200", 'budget = "3 B"'), ["less than one row"]),
    Bad("fewer rows than lookups", job("rows = 200", "rows = 15"), ["rows"]),
    Bad("unknown method", job("rows = 200", 'rows = 200\nmethod = "hsah"'), ["table.method"]),
    Bad("unknown tower", job("hidden = [4]", 'kind = "dcn"'), ["tower.kind"]),
    Bad("feature twice", job('dense = ["price"]', 'dense = ["user"]'), ["user"]),
    Bad("no features", job('["user", "city"]\ndense = ["price"]', "[]"), ["feature"]),
    Bad("label as a feature", job('["price"]', '["click"]'), ["click", "label"]),
    Bad("settings of no feature", add("\n[feature.usr]\nlookups = 1"), ["usr", "user"]),
    Bad("setting of another kind", add("\n[feature.user]\nlog = 'log1p'"), ["user", "log"]),
    Bad("cross of no feature", add("\n[features.cross]\nx = ['user', 'town']"), ["town"]),
    Bad("GPU that is not there", job("threads = 1", 'device = "cuda"'), ["cuda", "GPU"]),
    # The command line.
    Bad("override without =", nothing, ["--set"], command=("train", "job.toml", "--set", "a.b")),
    Bad(
        "override of no key",
        nothing,
        ['"table.colour"'],
        command=("train", "job.toml", "--set", "table.colour=1"),
    ),
    Bad(
        "more workers than streams",
        nothing,
        ["data.streams is 12", "99 ranks"],
        command=("train", "job.toml", "--workers=99"),
    ),
    Bad("no job given", nothing, ["JOB"], command=("train",)),
    Bad("eval of no run", nothing, ["no run"], command=("eval", "run")),
    Bad("predict of no run", nothing, ["no run"], command=("predict", "run", "x", "--out", "o")),
    Bad("lookup in no run", nothing, ["no run"], command=("lookup", "run", "user", "1")),
    Bad("inspect of nothing", nothing, ["neither"], command=("inspect", "nowhere")),
    Bad(
        "plan of no profile", nothing, ["--profile"], command=("plan", "job.toml", "--profile", "x")
    ),
    Bad(
        "init over a file",
        nothing,
        ["--force"],
        command=("init", "train.parquet", "--label", "click"),
    ),
    Bad(
        "init without such a label",
        nothing,
        ["clik", "click"],
        command=("init", "train.parquet", "--label", "clik", "--out", "new.toml"),
    ),
    Bad(
        "init of no data",
        nothing,
        ["nowhere"],
        command=("init", "nowhere/*", "--label", "c", "--out", "n"),
    ),
]

FILES = [
    # The files.
    Bad("no such file", job('"train.parquet"', '"trian.parquet"'), ["trian.parquet"]),
    Bad("pattern of nothing", job('"train.parquet"', '"days/*.parquet"'), ["days/*.parquet"]),
    Bad("empty file", lambda f: (f / "train.parquet").write_bytes(b""), ["train.parquet", "empty"]),
    Bad("truncated file", truncate, ["train.parquet", "cut short"]),
    Bad("damaged file", damage, ["train.parquet", "row group 0"]),
    Bad(
        "no Parquet", lambda f: (f / "train.parquet").write_text("a,b\n1,2\n3,4\n"), ["not Parquet"]
    ),
    Bad("no rows", lambda f: pq.write_table(rows().slice(0, 0), f / "train.parquet"), ["no rows"]),
    Bad("missing column", data(city=None), ["city", "train.parquet"]),
    Bad("missing column in valid", data("valid.parquet", city=None), ["city", "valid.parquet"]),
    Bad("missing label column", data(click=None), ["click", "train.parquet"]),
    Bad("float ids", data(user=np.linspace(0, 1, ROWS)), ["user", "double", "dense"]),
    Bad("text as a number", data(price=["a"] * ROWS), ["price"]),
    Bad("list as an id", data(user=[[1]] * ROWS), ["user", "list"]),
    Bad("ids of two classes", data("valid.parquet", user=["a"] * ROWS), ["user", "valid.parquet"]),
    Bad("label of 2", with_values("click", 7, 2), ["click", "row 7"]),
    Bad("null label", with_values("click", 7, None), ["click", "row 7"]),
    Bad("label as text", data(click=["yes"] * ROWS), ["click"]),
    Bad("infinite number", with_values("price", 7, float("inf")), ["price", "row 7"]),
]


PLANNED = [replace(bad, command=("plan", "job.toml")) for bad in FILES]
TRAINED = {"truncated file", "damaged file", "float ids", "label of 2", "infinite number"}
CASES += [
    *PLANNED,
    *(replace(bad, name=f"train, {bad.name}") for bad in FILES if bad.name in TRAINED),
]


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job that would train."""
    (tmp_path / "job.toml").write_text(JOB)
    for part in ("train", "valid"):
        write(tmp_path, f"{part}.parquet")
    return tmp_path


def test_the_job_they_all_start_from_trains(folder):
    done = muxtable("train", "job.toml", "--json", cwd=folder)

    assert done.code == 0, done.err
    assert (folder / "run" / "report.html").exists()


@pytest.mark.parametrize("bad", CASES, ids=lambda bad: bad.name)
def test_it_is_refused_in_one_screen_and_leaves_nothing(folder, bad):
    bad.change(folder)
    before = contents(folder)

    done = muxtable(*bad.command, cwd=folder)

    assert done.code == bad.code, done.err
    assert done.err.startswith("error: ")
    assert "\n  fix: " in done.err
    assert "Traceback" not in done.err
    assert "this is a bug" not in done.err
    assert len(done.err.splitlines()) <= 10
    assert [word for word in bad.says if word not in done.err] == [], done.err
    assert done.out == ""
    assert contents(folder) == before


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"(folder)"
        for path in sorted(folder.rglob("*"))
    }


def test_a_loss_that_is_no_number_stops_with_the_step_and_exit_code_1(folder):
    options = ["--set", "train.learning_rate=100", "--set", "train.optimizer=sgd"]
    options += ["--set", "table.learning_rate=100", "--set", "table.optimizer=sgd"]
    options += ["--set", "train.epochs=200", "--set", "feature.price.standardize=false"]
    write(folder, price=np.full(ROWS, 1e30))

    done = muxtable("train", "job.toml", *options, cwd=folder)

    assert done.code == 1, done.err
    assert "step" in done.err
    assert "learning_rate" in done.err
    assert "Traceback" not in done.err


def test_a_run_of_another_job_is_not_touched(folder):
    muxtable("train", "job.toml", cwd=folder)
    before = contents(folder / "run") | {"lock": b""}

    done = muxtable("train", "job.toml", "--set", "table.rows=300", cwd=folder)

    assert done.code == 2
    assert "table.rows was 200, is 300" in done.err
    assert contents(folder / "run") | {"lock": b""} == before


def test_changed_data_is_not_trained_on(folder):
    muxtable("train", "job.toml", cwd=folder)
    write(folder, user=np.arange(ROWS))

    done = muxtable("train", "job.toml", cwd=folder)

    assert done.code == 2
    assert "train.parquet had" in done.err


def test_a_run_folder_with_other_things_is_not_touched(folder):
    (folder / "run").mkdir()
    (folder / "run" / "thesis.txt").write_text("mine")

    done = muxtable("train", "job.toml", cwd=folder)

    assert done.code == 2
    assert "thesis.txt" in done.err
    assert [path.name for path in (folder / "run").iterdir()] == ["thesis.txt"]


def test_a_damaged_checkpoint_is_named_and_not_used(folder):
    muxtable("train", "job.toml", cwd=folder)
    checkpoint = next((folder / "run" / "checkpoints").glob("step-*"))
    tensors = next(checkpoint.glob("*.safetensors"))
    content = bytearray(tensors.read_bytes())
    content[-5] ^= 1
    tensors.chmod(0o644)
    tensors.write_bytes(content)

    done = muxtable("eval", "run", "valid.parquet", cwd=folder)

    assert done.code == 2
    assert tensors.name in done.err


@pytest.fixture
def small_disk(tmp_path_factory):
    """A file system of 200 kB."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_and_leaves_no_half_run(folder, small_disk):
    run = f"run.dir={small_disk / 'run'}"

    done = muxtable("train", "job.toml", "--set", run, "--set", "table.rows=20000", cwd=folder)

    assert done.code in (1, 2), done.err
    assert "space" in done.err
    assert "Traceback" not in done.err
    checkpoints = small_disk / "run" / "checkpoints"
    left = [path.name for path in checkpoints.glob("*")] if checkpoints.exists() else []
    assert [name for name in left if not name.startswith(".")] == []


def test_predictions_on_a_full_disk_leave_no_half_file(folder, small_disk):
    muxtable("train", "job.toml", cwd=folder)
    big = pa.concat_tables([rows()] * 500)
    pq.write_table(big, folder / "big.parquet")
    filler = small_disk / "filler"
    filler.write_bytes(bytes(190_000))

    done = muxtable(
        "predict", "run", "big.parquet", "--out", small_disk, "--keep", "price", cwd=folder
    )

    assert done.code == 1, done.err
    assert "no space left on device" in done.err
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


@pytest.fixture
def read_only(tmp_path_factory):
    """A folder nobody may write into, whoever runs the tests."""
    folder = tmp_path_factory.mktemp("locked")
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=100k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
        return
    if os.geteuid() == 0:
        pytest.skip("needs the right to mount, or not to be root")
    folder.chmod(0o500)
    yield folder
    folder.chmod(0o700)


@pytest.mark.parametrize(
    "command",
    [
        ("train", "job.toml", "--set", "run.dir={locked}/run"),
        ("init", "train.parquet", "--label", "click", "--out", "{locked}/job.toml"),
        ("convert", "criteo", "rows.tsv", "--out", "{locked}/out"),
        ("demo", "--dir", "{locked}"),
    ],
    ids=lambda command: command[0],
)
def test_a_folder_that_may_not_be_written_is_named(folder, read_only, command):
    line = "\t".join(["1", *["7"] * 13, *["a"] * 26])
    (folder / "rows.tsv").write_text("\n".join([line] * 20))

    done = muxtable(*[word.format(locked=read_only) for word in command], cwd=folder)

    assert done.code in (1, 2), done.err
    assert str(read_only) in done.err
    assert "Traceback" not in done.err
    assert list(read_only.iterdir()) == []


def test_predictions_refuse_what_they_cannot_keep(folder):
    muxtable("train", "job.toml", cwd=folder)
    predict = ("predict", "run", "valid.parquet", "--out", "out")

    wrong = muxtable(*predict, "--keep", "prize", cwd=folder)
    write(folder, "other.parquet", city=None)
    missing = muxtable("predict", "run", "other.parquet", "--out", "out", cwd=folder)
    checkpoint = muxtable(*predict, "--checkpoint", "7777", cwd=folder)
    unknown = muxtable("lookup", "run", "usr", "1", cwd=folder)
    words = muxtable("lookup", "run", "user", "abc", cwd=folder)

    for done, word in [
        (wrong, 'did you mean "price"?'),
        (missing, "city"),
        (checkpoint, "7777"),
        (unknown, 'did you mean "user"?'),
        (words, "trained on integers"),
    ]:
        assert done.code == 2
        assert word in done.err
        assert "Traceback" not in done.err
    assert not (folder / "out").exists()
