"""What tests of damage start from."""

from pathlib import Path

import pytest

from tests.storage.damage import write


@pytest.fixture
def bundle(tmp_path) -> Path:
    return write(tmp_path, 1, "b")[0]
