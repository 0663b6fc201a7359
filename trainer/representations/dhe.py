"""Deep hash embedding (Kang et al., KDD 2021): a network turns many hashes of a value into its
vector, so there is nothing of a value's own.

Multiplexed, one network serves all features, whose hash functions differ; per feature each has one,
with a share of the bytes by cardinality. The embedding is `table.width` wide: see
`features.readers.network`. Hidden layers are as wide as the budget allows.
"""

from typing import Any

from features.errors import PlanError
from features.readers.network import num_weights
from features.regions import Placement, Region
from features.routing import Layout
from features.schema import FeatureSet
from features.settings import TableSettings
from features.statistics import FeatureStatistics
from trainer.representations.budget import BYTES_PER_FLOAT, apportion
from trainer.representations.exact import exact_regions, is_exact, known_vocabulary
from trainer.representations.groups import group_features, placements
from trainer.representations.hashed import exact_reader, region_parts, rows_left

NUM_HASHES = 128
_MOST_HIDDEN = 65536


def build(
    feature_set: FeatureSet, seen: FeatureStatistics | None, settings: TableSettings
) -> Layout:
    """Returns the layout of the method `dhe`; PlanError where no network fits the budget."""
    width = settings.width
    groups = group_features(feature_set, seen)
    exact = [group for group in groups if is_exact(group, settings)]
    others = [group for group in groups if group not in exact]
    vocabularies = {group.name: known_vocabulary(group) for group in exact}
    counts = {group.name: 1 for group in exact}
    exact_rows = sum(group.exact_rows(len(vocabularies[group.name]), 1) for group in exact)
    left = rows_left(exact, exact_rows, bool(others), settings, width)
    parts = region_parts(others, seen is not None, settings)
    least = -(-num_weights(NUM_HASHES, 1, width) // width)
    if least * len(parts) > left:
        need = (least * len(parts) - left) * width * BYTES_PER_FLOAT
        raise PlanError(
            f"{len(parts)} networks over {NUM_HASHES} hashes need at least {least * len(parts):,} "
            f"rows, and {left:,} are left",
            f"raise table.budget by at least {need:,} bytes, or multiplex the features",
        )
    weights = [sum(max(group.cardinality, 1) for group in members) for _, members in parts]
    shares = apportion(left, weights, [least] * len(parts))
    regions, names, readers = [], {}, {}
    base = 0
    for (name, members), rows in zip(parts, shares, strict=True):
        hidden = _hidden(rows * width, width)
        used = -(-num_weights(NUM_HASHES, hidden, width) // width)
        regions.append(Region(name=name, kind="program", base=base, rows=used, width=width))
        names.update({group.name: name for group in members})
        readers[name] = {
            "kind": "program",
            "base": base,
            "rows": used,
            "hashes": NUM_HASHES,
            "hidden": hidden,
            "width": width,
            "init_scale": settings.init_scale,
        }
        base += used
    more, exact_names = exact_regions(exact, vocabularies, base, width, counts)

    def placed(one: Placement) -> Placement:
        tree: dict[str, Any] = readers.get(one.region) or exact_reader(width, 1)
        return Placement(
            feature=one.feature,
            region=one.region,
            key_class=one.key_class,
            edges=one.edges,
            reader=tree,
        )

    return Layout.assemble(
        width=width,
        hash_seed=settings.hash_seed,
        regions=[*regions, *more],
        placements=[placed(one) for one in placements(feature_set, seen, names | exact_names)],
        vocabularies={exact_names[name]: keys for name, keys in vocabularies.items()},
    )


def _hidden(floats: int, width: int) -> int:
    """Returns the widest hidden layers whose network fits."""
    low, high = 1, _MOST_HIDDEN
    while low < high:
        middle = (low + high + 1) // 2
        if num_weights(NUM_HASHES, middle, width) <= floats:
            low = middle
        else:
            high = middle - 1
    return low
