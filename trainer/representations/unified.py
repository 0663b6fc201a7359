"""Unified Embedding: every value reads c rows of one table by c hash functions, concatenated.

Coleman et al., NeurIPS 2023 (arXiv 2305.12102). Per feature it is the hashing trick with several
lookups. `hash` is this with one lookup, which `features.declaration` has resolved before.
"""

from features.routing import Layout
from features.schema import FeatureSet
from features.settings import TableSettings
from features.statistics import FeatureStatistics
from trainer.representations.hashed import Shape, build_hashed


def build(
    feature_set: FeatureSet, seen: FeatureStatistics | None, settings: TableSettings
) -> Layout:
    """Returns the layout of the methods `unified` and `hash`; see `build_hashed`."""
    return build_hashed(feature_set, seen, settings, Shape(width=settings.width))
