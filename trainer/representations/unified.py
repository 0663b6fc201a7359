"""Unified Embedding: every value reads c rows of one table by c hash functions, concatenated.

The rows of small vocabularies are exact and paid first; the hashed features share what remains:

    multiplexed       one region for all of them (NeurIPS 2023, arXiv 2305.12102)
    per feature       a range for each, in proportion to its cardinality (largest remainder, at
                      least five rows): the hashing trick with tables as one would size them by hand

`hash` is this with one lookup, which `features.declaration` has resolved before.
"""

from typing import Literal

from features.errors import ConfigError, PlanError
from features.regions import Region
from features.routing import Layout
from features.schema import FeatureSet
from features.settings import TableSettings
from features.statistics import FeatureStatistics
from trainer.representations.budget import FLOOR_ROWS, apportion, row_bytes, total_rows
from trainer.representations.exact import exact_regions, is_exact, known_vocabulary
from trainer.representations.groups import Group, group_features, placements


def build(
    feature_set: FeatureSet, seen: FeatureStatistics | None, settings: TableSettings
) -> Layout:
    """Returns the layout of the methods `unified` and `hash`.

    Without statistics every feature is hashed, and all must be multiplexed. Raises ConfigError
    where neither `budget` nor `rows` is given, PlanError where the rows do not suffice.
    """
    groups = group_features(feature_set, seen)
    exact = [group for group in groups if is_exact(group, settings)]
    hashed = [group for group in groups if group not in exact]
    vocabularies = {group.name: known_vocabulary(group) for group in exact}
    exact_rows = sum(group.exact_rows(len(vocabularies[group.name])) for group in exact)
    hashed_rows = _hashed_rows(exact, exact_rows, hashed, settings)
    regions, names = _hashed_regions(hashed, hashed_rows, seen is not None, settings)
    more, exact_names = exact_regions(exact, vocabularies, hashed_rows, settings.width)
    return Layout.assemble(
        width=settings.width,
        hash_seed=settings.hash_seed,
        regions=[*regions, *more],
        placements=placements(feature_set, seen, names | exact_names),
        vocabularies={exact_names[name]: keys for name, keys in vocabularies.items()},
    )


def _hashed_rows(
    exact: list[Group], exact_rows: int, hashed: list[Group], settings: TableSettings
) -> int:
    """The rows that the exact groups leave of the table; 0 where nothing is hashed."""
    allowed = total_rows(settings)
    if allowed is None:
        if not hashed:
            return 0
        raise ConfigError(
            "neither table.budget nor table.rows is given",
            'say what the table may cost, as in table.budget = "64 MiB"',
        )
    if exact_rows > allowed or (hashed and exact_rows == allowed):
        raise PlanError(
            f"the exact rows of {_names(exact)} need {exact_rows:,} rows, "
            f"{'all' if exact_rows == allowed else 'more than'} the {allowed:,} of the table",
            _cheaper(exact, exact_rows, settings),
        )
    return allowed - exact_rows if hashed else 0


def _cheaper(exact: list[Group], exact_rows: int, settings: TableSettings) -> str:
    """What to do when exact rows alone pass the budget, with numbers."""
    need = exact_rows * row_bytes(settings.width)
    largest = max(exact, key=lambda group: group.cardinality)
    ways = [f'raise table.budget above "{need} B"']
    if largest.owner.exact:
        ways.append(f"remove feature.{largest.name}.exact ({largest.cardinality:,} values)")
    elif settings.exact_below > 0:
        ways.append(
            f"lower table.exact_below (it is {settings.exact_below}; {largest.name} has "
            f"{largest.cardinality:,} values)"
        )
    if settings.width > 1:
        ways.append(f"lower table.width (it is {settings.width})")
    return ", or ".join(ways)


def _hashed_regions(
    hashed: list[Group], num_rows: int, is_seen: bool, settings: TableSettings
) -> tuple[list[Region], dict[str, str]]:
    """Regions of the hashed groups over `num_rows` rows, and the region's name by group."""
    shared = [group for group in hashed if _is_multiplexed(group, settings)]
    own = [group for group in hashed if group not in shared]
    if own and not is_seen:
        raise PlanError(
            f'feature "{own[0].name}" has rows of its own, as many as its cardinality says',
            "give the statistics of a profile, or multiplex the feature",
        )
    parts = ([("shared", shared)] if shared else []) + [
        (f"feature:{group.name}", [group]) for group in own
    ]
    weights = [sum(max(group.cardinality, 1) for group in groups) for _, groups in parts]
    floors = [_floor(name, groups) for name, groups in parts]
    if sum(floors) > num_rows:
        raise PlanError(*_too_few(hashed, num_rows, sum(floors), settings))
    shares = apportion(num_rows, weights, floors)
    regions, names, base = [], {}, 0
    for (name, groups), rows in zip(parts, shares, strict=True):
        kind: Literal["shared", "feature"] = "shared" if name == "shared" else "feature"
        regions.append(Region(name=name, kind=kind, base=base, rows=rows, width=settings.width))
        names.update({group.name: name for group in groups})
        base += rows
    return regions, names


def _is_multiplexed(group: Group, settings: TableSettings) -> bool:
    own = group.owner.multiplexed
    return settings.multiplexed if own is None else own


def _floor(name: str, groups: list[Group]) -> int:
    lookups = max(group.owner.num_lookups for group in groups)
    return lookups if name == "shared" else max(FLOOR_ROWS, lookups)


def _too_few(
    hashed: list[Group], num_rows: int, need: int, settings: TableSettings
) -> tuple[str, str]:
    most = max(hashed, key=lambda group: group.owner.num_lookups)
    if settings.multiplexed and all(_is_multiplexed(group, settings) for group in hashed):
        why = f'"{most.name}" reads {most.owner.num_lookups} for each value'
    else:
        why = f"a range of its own has at least {FLOOR_ROWS}"
    missing = (need - num_rows) * row_bytes(settings.width)
    return (
        f"{num_rows:,} rows are left for the {len(hashed)} hashed features ({_names(hashed)}), "
        f"which need at least {need:,}: {why}",
        f"raise table.budget by at least {missing:,} bytes, or lower table.width or the lookups",
    )


def _names(groups: list[Group]) -> str:
    names = [f'"{group.name}"' for group in groups[:3]]
    more = len(groups) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
