import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from trainer.losses import binary_cross_entropy


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=200))
    label = torch.from_numpy((rng.random(200) < 0.3).astype(np.float64))
    weight = torch.from_numpy(rng.random(200) * 3)
    return logits, label, weight


def test_loss_equals_scikit_learns_weighted_log_loss(batch) -> None:
    logits, label, weight = batch

    plain = binary_cross_entropy(logits, label).item()
    weighted = binary_cross_entropy(logits, label, weight).item()

    predictions = torch.sigmoid(logits).numpy()
    assert plain == pytest.approx(log_loss(label, predictions), rel=1e-12)
    assert weighted == pytest.approx(
        log_loss(label, predictions, sample_weight=weight.numpy()), rel=1e-12
    )


def test_shares_of_a_global_batch_add_up_to_the_whole(batch) -> None:
    logits, label, weight = batch
    logits.requires_grad_()
    whole = torch.autograd.grad(binary_cross_entropy(logits, label, weight), logits)[0]

    total = float(weight.sum())
    shares = [
        binary_cross_entropy(logits[part], label[part], weight[part], total)
        for part in (slice(0, 70), slice(70, 71), slice(71, 200))
    ]

    summed = torch.autograd.grad(sum(shares), logits)[0]
    torch.testing.assert_close(summed, whole, rtol=1e-12, atol=0)


def test_a_weight_of_zero_removes_a_sample(batch) -> None:
    logits, label, weight = batch
    weight[50:] = 0

    loss = binary_cross_entropy(logits, label, weight)

    assert loss.item() == pytest.approx(
        binary_cross_entropy(logits[:50], label[:50], weight[:50]).item(), rel=1e-12
    )


def test_a_batch_that_weighs_nothing_has_loss_zero_and_no_gradient(batch) -> None:
    logits, label, weight = batch
    logits.requires_grad_()

    loss = binary_cross_entropy(logits, label, torch.zeros_like(weight))
    loss.backward()

    assert loss.item() == 0
    assert not logits.grad.any()


def test_an_empty_share_has_loss_zero() -> None:
    empty = torch.zeros(0)

    alone = binary_cross_entropy(empty, empty)
    share = binary_cross_entropy(empty, empty, empty, total=12.0)

    assert alone.item() == share.item() == 0


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([1e30, -1e30, 1e4])
    label = torch.tensor([1.0, 0.0, 0.0])

    loss = binary_cross_entropy(logits, label)

    assert loss.item() == pytest.approx(1e4 / 3)
