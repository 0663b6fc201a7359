"""ROBE-Z (Desai et al., MLSys 2022): blocks of neighbouring floats out of one circular pool.

The pool is a table of rows one float wide. A feature's embedding has lookups x width columns in
blocks of `table.block`, each block at a place of its own: see `features.readers.ring`.
"""

from features.routing import Layout
from features.schema import Feature, FeatureSet
from features.settings import TableSettings
from features.statistics import FeatureStatistics
from trainer.representations.hashed import Shape, build_hashed


def build(
    feature_set: FeatureSet, seen: FeatureStatistics | None, settings: TableSettings
) -> Layout:
    """Returns the layout of the method `robe`; see `build_hashed`."""

    def columns(feature: Feature) -> int:
        return feature.num_lookups * settings.width

    def block(feature: Feature) -> int:
        return min(settings.block, columns(feature))

    shape = Shape(
        width=1,
        floor=block,
        reader=lambda feature, _: {
            "kind": "ring_block",
            "block": block(feature),
            "width": columns(feature),
        },
        exact_count=columns,
        exact_width=columns,
    )
    return build_hashed(feature_set, seen, settings, shape)
