"""What tests of checkpoints start from."""

from pathlib import Path

import pytest

from tests.trainer.checkpoints import save
from trainer.checkpoint import CheckpointStore


@pytest.fixture
def directory(tmp_path) -> Path:
    """A run with the checkpoint of step 1."""
    path = tmp_path / "run" / "checkpoints"
    with CheckpointStore(path, 1) as store:
        save(store, 1)
    return path
