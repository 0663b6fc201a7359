from pathlib import Path

import numpy as np
import pytest

from features.errors import SnapshotError
from storage.bundle import BundleWriter
from storage.chain import open_checkpoint
from tests.trainer.small import TABLE, TOWER, small_model, small_optimizer
from trainer import saving
from trainer.state import RunState

DIGESTS = {"job": "a", "data": "b"}


def tensors_of(model) -> dict[str, np.ndarray]:
    """Returns all arrays of a checkpoint of one rank."""
    sharded, tensors = saving.tensors_of(model, small_optimizer(model))
    return {name: rows.array for name, rows in sharded.items()} | tensors


def write(folder: Path, model=None, **changes: object):
    """Writes a checkpoint whose content is changed, and opens it."""
    model = model or small_model()
    with BundleWriter(
        folder, f"b-{len(list(folder.iterdir()))}", "checkpoint", "a", None
    ) as bundle:
        for name, array in tensors_of(model).items():
            bundle.add_tensor(name, array)
        bundle.commit({**saving.content_of(model, RunState(step=3), DIGESTS), **changes})
    return open_checkpoint(bundle.path)


def test_a_model_is_restored_bit_for_bit(tmp_path) -> None:
    model = small_model(seed=1)
    with write(tmp_path, model) as bundle:
        other = small_model(seed=2)
        before = tensors_of(other)["table.weight"].copy()

        saving.restore(other, bundle, small_optimizer(other))

    ours, theirs = tensors_of(other), tensors_of(model)
    assert not np.array_equal(before, ours["table.weight"])
    assert all(np.array_equal(array, theirs[name]) for name, array in ours.items())


def test_for_predictions_another_table_optimizer_will_do(tmp_path) -> None:
    model = small_model(seed=1)
    plain = small_model(TABLE.model_copy(update={"optimizer": "sgd"}), seed=2)

    with write(tmp_path, model) as bundle:
        saving.restore(plain, bundle, None)

    assert np.array_equal(plain.engine.state()["weight"], model.engine.state()["weight"])


def test_a_tower_of_another_shape_is_refused_by_parameter(tmp_path) -> None:
    wider = small_model(tower=TOWER.model_copy(update={"hidden": [9]}))

    with (
        write(tmp_path) as bundle,
        pytest.raises(SnapshotError, match=r"deep.layers.0.weight.* \[8, 26\], the job's has"),
    ):
        saving.restore(wider, bundle, small_optimizer(wider))


def test_an_optimizer_state_of_another_tower_is_refused() -> None:
    model = small_model()
    optimizer = small_optimizer(model)
    state = {"exp_avg.nowhere": next(iter(model.tower.parameters())).detach()}

    with pytest.raises(SnapshotError, match=r'"exp_avg.nowhere" .* fits no parameter'):
        optimizer.load_state(state)


def test_digests_that_changed_are_named(tmp_path) -> None:
    with write(tmp_path) as bundle:
        saving.check_digests(bundle, DIGESTS)

        with pytest.raises(SnapshotError, match="trained with another data"):
            saving.check_digests(bundle, {"job": "a", "data": "c"})


@pytest.mark.parametrize("state", [None, {}, [], {"step": 3}, {"step": 3, "more": 1}])
def test_a_state_of_another_version_is_refused(tmp_path, state) -> None:
    with (
        write(tmp_path, state=state) as bundle,
        pytest.raises(SnapshotError, match="run state is not one of this version"),
    ):
        saving.state_in(bundle)


@pytest.mark.parametrize("key", ["layout", "digests", "table"])
def test_a_bundle_that_is_no_checkpoint_of_a_run_is_refused(tmp_path, key) -> None:
    read = {
        "layout": saving.layout_in,
        "digests": lambda bundle: saving.check_digests(bundle, DIGESTS),
        "table": lambda bundle: saving.restore(small_model(), bundle, None),
    }

    with (
        write(tmp_path, **{key: None}) as bundle,
        pytest.raises(SnapshotError, match=f'its manifest has no "{key}"'),
    ):
        read[key](bundle)


def test_the_state_comes_back_number_for_number(tmp_path) -> None:
    state = RunState(step=7, loss_sum=0.1 + 0.2, elapsed_s=1 / 3, best_step=5)

    again = RunState.from_json(state.to_json())

    assert again == state
