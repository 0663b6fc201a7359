import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import DataError
from features.parquet import open_dataset

NAMES = ("arrow_tensor", "arrow_tensor_v2", "arrow_variable_shaped_tensor", "arrow_pickled_object")
NUMBERS = pa.list_(pa.float64())


class Canary:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def hostile(name: str, canary: Path, kind: pa.DataType = NUMBERS) -> pa.Field:
    metadata = {
        b"ARROW:extension:name": f"ray.data.{name}".encode(),
        b"ARROW:extension:metadata": pickle.dumps(Canary(canary)),
    }
    return pa.field("extra", kind, metadata=metadata)


def write(path: Path, field: pa.Field, values: list) -> None:
    pq.write_table(pa.table([pa.array(values, field.type)], pa.schema([field])), path)


@pytest.mark.parametrize("name", NAMES)
def test_a_column_that_ray_would_unpickle_is_refused(tmp_path, name):
    write(tmp_path / "a.parquet", hostile(name, tmp_path / "canary"), [[1.0]])

    with pytest.raises(DataError, match=f'a.parquet: column "extra" has .* "ray.data.{name}"'):
        open_dataset("a.parquet", tmp_path)
    assert not (tmp_path / "canary").exists()


def test_it_is_found_inside_other_columns(tmp_path):
    inner = hostile("arrow_tensor", tmp_path / "canary")
    write(tmp_path / "a.parquet", pa.field("outer", pa.struct([inner])), [{"extra": [1.0]}])

    with pytest.raises(DataError, match='column "extra" has the Arrow extension'):
        open_dataset("a.parquet", tmp_path)


def test_extensions_of_arrow_are_no_matter(tmp_path):
    tensor = pa.fixed_shape_tensor(pa.float32(), [1])
    values = pa.ExtensionArray.from_storage(tensor, pa.array([[1.0]], tensor.storage_type))
    pq.write_table(pa.table({"x": values}), tmp_path / "a.parquet")

    assert open_dataset("a.parquet", tmp_path).num_rows == 1


@pytest.mark.timeout(120)
def test_a_process_with_the_types_of_ray_refuses_it_too_and_runs_nothing(tmp_path):
    # As a worker of Ray Train does: its imports register these types with Arrow.
    for name in NAMES:
        write(tmp_path / f"{name}.parquet", hostile(name, tmp_path / "canary"), [[1.0]])
    code = f"""
import sys, ray.train.torch
from pathlib import Path
from features.errors import DataError
from features.parquet import open_dataset
from launch.cluster.worker import _forget_extensions
_forget_extensions()
for name in {NAMES}:
    try:
        open_dataset(name + ".parquet", Path(sys.argv[1]))
    except DataError as exc:
        print(exc.what)
"""

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )

    assert done.stdout.count('column "extra" has the Arrow extension "ray.data.') == len(NAMES)
    assert not (tmp_path / "canary").exists()
