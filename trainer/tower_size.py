"""How many parameters a tower has, without building it: what a plan needs, and free of torch."""

from collections.abc import Sequence
from itertools import pairwise

from trainer.settings import TowerSettings


def num_parameters(settings: TowerSettings, widths: Sequence[int], num_dense: int) -> int:
    """Returns the number of floats in `build_tower(settings, widths, num_dense, ...)`."""
    if settings.kind == "dlrm":
        return _dlrm(settings, widths, num_dense)
    width = sum(widths) + num_dense
    deep, last = _hidden(width, settings.hidden)
    if settings.kind == "mlp":
        return deep + last + 1
    rank = settings.low_rank
    cross = width * width if rank is None else 2 * width * rank
    joined = width + last if settings.structure == "parallel" else last
    return settings.cross_layers * (cross + width) + deep + joined + 1


def common_width(settings: TowerSettings, widths: Sequence[int]) -> int:
    """Returns DLRM's common width of the features: as set, or the largest (all, where they
    agree)."""
    if settings.projection is not None:
        return settings.projection
    return max(widths, default=settings.bottom[-1] if settings.bottom else 1)


def _dlrm(settings: TowerSettings, widths: Sequence[int], num_dense: int) -> int:
    common = common_width(settings, widths)
    bottom = _hidden(num_dense, [*settings.bottom, common])[0] if num_dense else common
    projections = sum(width * common for width in widths if width != common)
    pairs = len(widths) * (len(widths) + 1) // 2
    deep, last = _hidden(pairs + (common if num_dense else 0), settings.hidden)
    return bottom + projections + deep + last + 1


def _hidden(width: int, sizes: Sequence[int]) -> tuple[int, int]:
    floats = sum((before + 1) * after for before, after in pairwise([width, *sizes]))
    return floats, sizes[-1] if sizes else width
