"""HashedNet (Chen et al., ICML 2015): every float of a vector is hashed on its own, with a sign.

The pool is a table of rows one float wide, so a budget of b bytes is b / 4 rows. A feature's
embedding has lookups x width columns, as in `unified`, each with a hash function of its own: see
`features.readers.signed`. It reads as many rows as there are columns, which is what makes it slow.
"""

from features.errors import PlanError
from features.routing import Layout
from features.schema import Feature, FeatureSet
from features.settings import TableSettings
from features.statistics import FeatureStatistics
from trainer.representations.hashed import Shape, build_hashed

# Hash functions of a feature: their salts stand in the manifest.
_MOST_COLUMNS = 512


def build(
    feature_set: FeatureSet, seen: FeatureStatistics | None, settings: TableSettings
) -> Layout:
    """Returns the layout of the method `hashednet`; see `build_hashed`."""

    def columns(feature: Feature) -> int:
        return feature.num_lookups * settings.width

    for feature in feature_set.features:
        if columns(feature) > _MOST_COLUMNS:
            raise PlanError(
                f'table.method "hashednet" has a hash function for each of the '
                f'{columns(feature):,} columns of "{feature.name}"; {_MOST_COLUMNS} are the most',
                "lower table.width or the lookups",
            )
    shape = Shape(
        width=1,
        floor=lambda _: 1,
        reader=lambda feature, _: {"kind": "signed_scalar", "width": columns(feature)},
        exact_count=columns,
        exact_width=columns,
    )
    return build_hashed(feature_set, seen, settings, shape)
