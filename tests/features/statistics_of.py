"""Statistics of features for tests, without a profile."""

import numpy as np

from features.statistics import CategoricalStatistics, DenseStatistics


class Seen:
    """A FeatureStatistics made of what a test says."""

    def __init__(self, categorical, dense=None):
        self.categorical = categorical
        self.dense = dense or {}


def counted(cardinality, key_class="int"):
    """A feature of which only the cardinality is known."""
    return CategoricalStatistics(
        cardinality=cardinality, key_class=key_class, rows=10**6, null_count=0, num_values=10**6
    )


def known(keys, key_class="int"):
    """A feature of which every key is known."""
    vocabulary = np.unique(np.array(list(keys), np.uint64))
    return CategoricalStatistics(
        cardinality=len(vocabulary),
        key_class=key_class,
        rows=10**6,
        null_count=0,
        num_values=10**6,
        vocabulary=vocabulary,
    )


def edged(*edges):
    """A dense feature with quantile edges."""
    return DenseStatistics(
        rows=10, missing_count=0, minimum=0, maximum=1, mean=0, std=1, edges=edges
    )
