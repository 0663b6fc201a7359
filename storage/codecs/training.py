"""What faiss trains: the entries of a product quantiser and the rotation before it.

One thread, and faiss's own fixed seeds: the same sample gives the same arrays.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from features.errors import CodecError
from storage.codecs.base import Values

_ENTRIES = 256


def train_product(sample: Values, parts: int) -> Values:
    """Returns the entries [M, 256, w / M] of `parts` parts of the sample rows [n, w]."""
    width = sample.shape[1]
    with _one_thread() as faiss:
        quantiser = _quantiser(faiss, width, parts)
        quantiser.train(_enough(sample))
        entries = faiss.vector_to_array(quantiser.centroids)
    return entries.reshape(parts, _ENTRIES, width // parts).astype(np.float32)


def train_rotation(sample: Values, parts: int) -> Values:
    """Returns the rotation [w, w] after which `parts` parts have the least error."""
    width = sample.shape[1]
    with _one_thread() as faiss:
        rotation, inner = faiss.OPQMatrix(width, parts), _quantiser(faiss, width, parts)
        rotation.pq = inner
        rotation.train(_enough(sample))
        matrix = faiss.vector_to_array(rotation.A)
    return matrix.reshape(width, width).astype(np.float32)


def _quantiser(faiss: Any, width: int, parts: int) -> Any:
    quantiser = faiss.ProductQuantizer(width, parts, 8)
    # It would print, many times over, that more rows train better.
    quantiser.cp.min_points_per_centroid = 1
    return quantiser


def _enough(sample: Values) -> Values:
    """Repeats a sample of fewer rows than there are entries, which faiss refuses."""
    if len(sample) >= _ENTRIES:
        return sample
    return np.resize(sample, (_ENTRIES, sample.shape[1]))


@contextmanager
def _one_thread() -> Iterator[Any]:
    try:
        faiss = importlib.import_module("faiss")
    except ImportError as exc:
        raise CodecError(
            f"training a product quantiser needs faiss: {exc}",
            "pip install faiss-cpu, or take another codec; serving needs none",
        ) from exc
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield faiss
    finally:
        faiss.omp_set_num_threads(threads)
