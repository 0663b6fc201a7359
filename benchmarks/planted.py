"""Planted signal with Criteo's cardinalities: multiplexing where the truth is known.

    python -m benchmarks.planted [--quick] [--json] [--threads N]

Two million rows are written to build/planted, Bayes' AUC with them (`benchmarks.planted_data`).
Logistic regression on embeddings is trained for three epochs, one lookup of 16 columns, per feature
(PF) and multiplexed (MX), with 1.0, 0.5 and 0.1 times as many rows as there are values; MX also
with 0.2 and 0.05 times. Draws build/planted-auc.png, -collisions.png, -angles.png and -norms.png.

gain_N              AUC of MX less that of PF at N times as many rows as values
residents_pf, _mx   values of its feature in a value's row at a tenth of the rows, over the figures
                    that follow from the cardinalities (10.0 and 0.93)
angle_0.1           mean angle in degrees between the readers after training, which start at 0
growth_0.1          mean squared norm at a tenth of the rows over that at all of them: the theory
                    has it grow like values / rows, tenfold (section 4 of arXiv 2305.12102);
                    learned_0.1 is the same of what was added to the norm of the start
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.planted_charts import NAMES, draw
from benchmarks.planted_data import Truth, write_planted
from benchmarks.planted_model import Outcome, train

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
BUDGETS = (1.0, 0.5, 0.1)
MORE_BUDGETS = (0.2, 0.05)
EPOCHS = 3
SEED = 0
# (residents, share of values alone) by budget and multiplexed, from the cardinalities alone.
EXPECTED = {
    (1.0, False): (1.00, 0.368),
    (1.0, True): (0.09, 0.913),
    (0.5, False): (2.01, 0.136),
    (0.5, True): (0.18, 0.834),
    (0.1, False): (10.0, 0.000),
    (0.1, True): (0.93, 0.420),
}


def main() -> None:
    """Writes the data, trains, draws, and prints the table or its JSON."""
    options = harness.start("planted", __doc__, threads=1)
    sizes = (100_000, 20_000) if options.quick else (2_000_000, 200_000)
    folder = BUILD / ("planted-quick" if options.quick else "planted")
    truth = write_planted(folder, SEED, *sizes)
    harness.progress(f"{truth.train_rows:,} rows, {truth.rate:.3f} clicks, Bayes {truth.bayes_auc}")
    cells = [(budget, kind) for budget in BUDGETS for kind in (False, True)]
    cells += [] if options.quick else [(budget, True) for budget in MORE_BUDGETS]
    epochs = 1 if options.quick else EPOCHS
    found = [train(folder, budget, kind, epochs, SEED, options.threads) for budget, kind in cells]
    if not options.quick:
        draw(found, truth, BUILD)
    harness.finish(options, ratios(found), [row(one, truth) for one in found])


def row(one: Outcome, truth: Truth) -> dict[str, Any]:
    """Returns a line of the table."""
    residents, alone = EXPECTED.get((one.budget, one.multiplexed), (None, None))
    _, angle, squared = one.curve[-1]
    return {
        "rows_per_value": one.budget,
        "table": NAMES[one.multiplexed],
        "rows": one.rows,
        "auc": one.auc,
        "bayes_auc": truth.bayes_auc,
        "residents": one.residents,
        "residents_expected": residents,
        "alone": one.alone,
        "alone_expected": alone,
        "angle": angle if one.multiplexed else None,
        "squared_norm": squared,
        "seconds": one.seconds,
    }


def ratios(found: Sequence[Outcome]) -> dict[str, float]:
    """Returns the figures that the docstring names."""
    of = {(one.budget, one.multiplexed): one for one in found}
    figures = {f"gain_{budget}": of[budget, True].auc - of[budget, False].auc for budget in BUDGETS}
    for name, kind in (("pf", False), ("mx", True)):
        figures[f"residents_{name}"] = of[0.1, kind].residents / EXPECTED[0.1, kind][0]
    figures["angle_0.1"] = of[0.1, True].curve[-1][1]
    few, many = of[0.1, True], of[1.0, True]
    figures["growth_0.1"] = few.norm / many.norm
    figures["learned_0.1"] = (few.norm - few.curve[0][2]) / (many.norm - many.curve[0][2])
    return figures


if __name__ == "__main__":
    main()
