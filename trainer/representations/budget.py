"""From bytes to rows: how many rows the table may have, and how regions share them."""

from collections.abc import Sequence

from features.errors import ConfigError, PlanError
from features.settings import TableSettings

BYTES_PER_FLOAT = 4
# A range of its own gives even the smallest feature a chance: below, its values fall into one or
# two rows, and per-feature tables would lose for a reason that is none of theirs.
FLOOR_ROWS = 5


def total_rows(settings: TableSettings, width: int | None = None) -> int | None:
    """Returns the rows of `width` floats (unset: table.width) that `budget` or `rows` allows.

    None where neither is given. `rows` count as rows of table.width whatever the method's are.
    Raises ConfigError where both are given, PlanError where the budget is below one row.
    """
    width = settings.width if width is None else width
    if settings.budget_bytes is None:
        return None if settings.rows is None else settings.rows * settings.width // width
    if settings.rows is not None:
        raise ConfigError(
            f'table.budget is "{settings.budget}" and table.rows is {settings.rows}',
            "give one of them: rows = budget / (4 x width)",
        )
    rows = settings.budget_bytes // row_bytes(width)
    if rows < 1:
        raise PlanError(
            f'table.budget is "{settings.budget}", less than one row of width {width} '
            f"({row_bytes(width)} bytes)",
            "raise table.budget or lower table.width",
        )
    return rows


def row_bytes(width: int) -> int:
    """Bytes of a row's parameters."""
    return width * BYTES_PER_FLOAT


def apportion(num_rows: int, weights: Sequence[int], floors: Sequence[int]) -> list[int]:
    """Shares rows in proportion to positive weights, each at least its floor, none left over.

    Shares that fall below their floor get it, and the others divide what remains; fractions go to
    the largest remainders, the first of equals. The floors must fit.
    """
    if sum(floors) > num_rows:
        raise ValueError(f"floors of {sum(floors)} rows do not fit into {num_rows}")
    shares = [0] * len(weights)
    open_ = set(range(len(weights)))
    left = num_rows
    while True:
        total = sum(weights[i] for i in open_)
        below = [i for i in open_ if left * weights[i] < floors[i] * total]
        if not below:
            break
        for i in below:
            shares[i] = floors[i]
            left -= floors[i]
            open_.remove(i)
    for i in open_:
        shares[i] = left * weights[i] // total
    rest = left - sum(shares[i] for i in open_)
    by_remainder = sorted(open_, key=lambda i: (-(left * weights[i] % total), i))
    for i in by_remainder[:rest]:
        shares[i] += 1
    return shares
