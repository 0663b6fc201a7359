"""Several tables, one for each lookup: what product quantisation is without training the codes.

Value v reads row h_k(v) of table k; the rows are concatenated. The K tables have the bytes of one
between them, so each has a K-th of the rows: two lookups of a value never meet, which in `unified`
they may. K is `table.lookups`.
"""

from features.routing import Layout
from features.schema import FeatureSet
from features.settings import TableSettings
from features.statistics import FeatureStatistics
from trainer.representations.hashed import Shape, build_hashed


def build(
    feature_set: FeatureSet, seen: FeatureStatistics | None, settings: TableSettings
) -> Layout:
    """Returns the layout of the method `pq`; see `build_hashed`."""
    tables = settings.num_lookups
    shape = Shape(
        width=settings.width,
        parts=tables,
        floor=lambda feature: max(tables, feature.num_lookups),
    )
    return build_hashed(feature_set, seen, settings, shape)
