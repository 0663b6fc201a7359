"""Hash Embedding (Svenstrup et al., NeurIPS 2017): a learned weighted sum of hashed rows.

A feature with H lookups has an embedding of one row's width: see `features.readers.weighted`. A
region has as many sets of H importances as rows, in rows behind the hashed ones and inside the same
bytes: H / width of them and a little more.
"""

from collections.abc import Mapping, Sequence

from features.errors import PlanError
from features.regions import Region
from features.routing import Layout
from features.schema import Feature, FeatureSet
from features.settings import TableSettings
from features.statistics import FeatureStatistics
from trainer.representations.hashed import ReaderTree, Shape, build_hashed


def build(
    feature_set: FeatureSet, seen: FeatureStatistics | None, settings: TableSettings
) -> Layout:
    """Returns the layout of the method `hash_embedding`; see `build_hashed`.

    Raises PlanError where a row is narrower than a set of importances.
    """
    width = settings.width
    most = max((feature.num_lookups for feature in feature_set.features), default=1)
    if most > width:
        raise PlanError(
            f'table.method "hash_embedding" keeps {most} importances of a value in a row, and a '
            f"row has {width} numbers",
            f"raise table.width to at least {most}, or lower the lookups",
        )
    sets = width // most

    def side(regions: Sequence[Region]) -> list[Region]:
        base = sum(region.rows for region in regions)
        found = []
        for region in regions:
            rows = -(-region.rows // sets)
            name = f"importance:{region.name}"
            found.append(Region(name=name, kind="importance", base=base, rows=rows, width=width))
            base += rows
        return found

    def reader(feature: Feature, regions: Mapping[str, Region]) -> ReaderTree:
        importances = regions[f"importance:{regions[feature.name].name}"]
        return {"kind": "weighted_sum", "base": importances.base, "rows": importances.rows}

    shape = Shape(
        width=width,
        reader=reader,
        exact_count=lambda _: 1,
        exact_width=lambda _: width,
        # Rows of importances are rounded up in each region.
        hashed_rows=lambda rows, regions: max(0, rows - regions) * sets // (sets + 1),
        side=side,
    )
    return build_hashed(feature_set, seen, settings, shape)
