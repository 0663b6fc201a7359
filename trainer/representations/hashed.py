"""What the hashed methods have in common: exact rows and those of popular values are paid first,
the hashed share what remains.

    multiplexed       one region for all of them (NeurIPS 2023, arXiv 2305.12102)
    per feature       a range for each, in proportion to its cardinality (largest remainder, at
                      least five rows): tables as one would size them by hand

How wide a row is and how features read their region is the method's: its `Shape`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from features.errors import ConfigError, PlanError
from features.regions import Placement, Region
from features.routing import Layout
from features.schema import Feature, FeatureSet
from features.settings import TableSettings
from features.statistics import FeatureStatistics
from trainer.representations.budget import FLOOR_ROWS, apportion, row_bytes, total_rows
from trainer.representations.exact import exact_regions, is_exact, known_vocabulary
from trainer.representations.groups import Group, group_features, placements
from trainer.representations.popular import find_popular

ReaderTree = dict[str, Any]
# side(regions of the hashed features) -> regions behind them, of the same table
Side = Callable[[Sequence[Region]], list[Region]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a method stores and reads its rows."""

    width: int
    """Floats of a row."""
    parts: int = 1
    """Tables that a region consists of."""
    floor: Callable[[Feature], int] = lambda feature: feature.num_lookups
    """The fewest rows that a region with the feature may have."""
    reader: Callable[[Feature, Mapping[str, Region]], ReaderTree] | None = None
    """How a hashed feature reads its region, given all regions by name and, under its own name,
    its own; None lays its lookups side by side."""
    exact_count: Callable[[Feature], int] = lambda feature: feature.num_lookups
    """Rows that each value of an exact feature owns."""
    exact_width: Callable[[Feature], int] | None = None
    """Columns of an exact feature, where there is a reader."""
    hashed_rows: Callable[[int, int], int] = lambda rows, _: rows
    """How many of so many rows the hashed regions, of which there are so many, may have; the rest
    is for the regions at their side."""
    side: Side = lambda _: []
    """Regions behind the hashed ones that go with them."""


def build_hashed(
    feature_set: FeatureSet,
    seen: FeatureStatistics | None,
    settings: TableSettings,
    shape: Shape,
) -> Layout:
    """Returns the layout of a hashed method.

    Without statistics every feature is hashed, and all must be multiplexed. Raises ConfigError
    where neither `budget` nor `rows` is given, PlanError where the rows do not suffice.
    """
    groups = group_features(feature_set, seen)
    exact = [group for group in groups if is_exact(group, settings)]
    hashed = [group for group in groups if group not in exact]
    vocabularies = {group.name: known_vocabulary(group) for group in exact}
    count = {group.name: shape.exact_count(group.owner) for group in exact}
    exact_rows = sum(
        group.exact_rows(len(vocabularies[group.name]), count[group.name]) for group in exact
    )
    left = rows_left(exact, exact_rows, bool(hashed), settings, shape.width)
    parts = region_parts(hashed, seen is not None, settings)
    popular = find_popular(hashed, settings, total_rows(settings, shape.width) or 0)
    if popular.num_rows and popular.num_rows >= left:
        raise PlanError(*_too_popular(popular.num_rows, left, settings))
    hashed_rows = shape.hashed_rows(left - popular.num_rows, len(parts))
    regions, names = _hashed_regions(hashed, parts, hashed_rows, settings, shape)
    side = shape.side(regions)
    base = sum(region.rows for region in (*regions, *side))
    more, exact_names = exact_regions(exact, vocabularies, base, shape.width, count)
    base += sum(region.rows for region in more)
    by_popularity, hot, frequent = popular.regions(base, shape.width)
    all_regions = [*regions, *side, *more, *by_popularity]
    placed = [
        replace(
            one, hot=hot.get(one.feature.salt_name), frequent=frequent.get(one.feature.salt_name)
        )
        for one in placements(feature_set, seen, names | exact_names)
    ]
    return Layout.assemble(
        width=shape.width,
        hash_seed=settings.hash_seed,
        regions=all_regions,
        placements=[_with_reader(one, all_regions, shape) for one in placed],
        vocabularies={exact_names[name]: keys for name, keys in vocabularies.items()},
    )


def rows_left(
    exact: Sequence[Group], exact_rows: int, has_others: bool, settings: TableSettings, width: int
) -> int:
    """Returns the rows of `width` that exact groups leave of the table; 0 where nothing else is
    there.

    Raises ConfigError where the table has no size, PlanError where the exact rows fill it.
    """
    allowed = total_rows(settings, width)
    if allowed is None:
        if not has_others:
            return 0
        raise ConfigError(
            "neither table.budget nor table.rows is given",
            'say what the table may cost, as in table.budget = "64 MiB"',
        )
    if exact_rows > allowed or (has_others and exact_rows == allowed):
        raise PlanError(
            f"the exact rows of {_names(exact)} need {exact_rows:,} rows, "
            f"{'all' if exact_rows == allowed else 'more than'} the {allowed:,} of the table",
            _cheaper(exact, exact_rows, settings, width),
        )
    return allowed - exact_rows if has_others else 0


def _hashed_regions(
    hashed: Sequence[Group],
    parts: Sequence[tuple[str, list[Group]]],
    num_rows: int,
    settings: TableSettings,
    shape: Shape,
) -> tuple[list[Region], dict[str, str]]:
    """Returns the regions of hashed groups over `num_rows` rows, and the region's name by group."""
    weights = [sum(max(group.cardinality, 1) for group in groups) for _, groups in parts]
    floors = [_floor(name, groups, shape) for name, groups in parts]
    if sum(floors) > num_rows:
        raise PlanError(*_too_few(hashed, num_rows, sum(floors), settings, shape))
    shares = apportion(num_rows, weights, floors)
    regions, names, base = [], {}, 0
    for (name, groups), rows in zip(parts, shares, strict=True):
        kind: Literal["shared", "feature"] = "shared" if name == "shared" else "feature"
        regions.append(
            Region(name=name, kind=kind, base=base, rows=rows, width=shape.width, parts=shape.parts)
        )
        names.update({group.name: name for group in groups})
        base += rows
    return regions, names


def region_parts(
    groups: Sequence[Group], is_seen: bool, settings: TableSettings
) -> list[tuple[str, list[Group]]]:
    """Returns name and groups of each region: first that of all multiplexed groups, if any.

    Raises PlanError where a group has rows of its own and no cardinality.
    """
    shared = [group for group in groups if _is_multiplexed(group, settings)]
    own = [group for group in groups if group not in shared]
    if own and not is_seen:
        raise PlanError(
            f'feature "{own[0].name}" has rows of its own, as many as its cardinality says',
            "give the statistics of a profile, or multiplex the feature",
        )
    return ([("shared", shared)] if shared else []) + [
        (f"feature:{group.name}", [group]) for group in own
    ]


def exact_reader(width: int, count: int) -> ReaderTree:
    """Returns the reader of an exact feature in a method that has readers."""
    return {"kind": "exact", "count": count, "width": width}


def _with_reader(placement: Placement, regions: Sequence[Region], shape: Shape) -> Placement:
    if shape.reader is None or shape.exact_width is None:
        return placement
    by_name = {region.name: region for region in regions}
    feature = placement.feature
    if by_name[placement.region].kind == "exact":
        tree = exact_reader(shape.exact_width(feature), shape.exact_count(feature))
    else:
        tree = shape.reader(feature, {**by_name, feature.name: by_name[placement.region]})
    return replace(placement, reader=tree)


def _too_popular(num_rows: int, left: int, settings: TableSettings) -> tuple[str, str]:
    return (
        f"the rows by popularity (table.hot_rows = {settings.hot_rows:g}) are {num_rows:,}, and "
        f"{left:,} are left of the table beside its exact rows: none for other values",
        "lower table.hot_rows, or raise table.budget",
    )


def _cheaper(exact: Sequence[Group], exact_rows: int, settings: TableSettings, width: int) -> str:
    """What to do when exact rows alone pass the budget, with numbers."""
    need = exact_rows * row_bytes(width)
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


def _is_multiplexed(group: Group, settings: TableSettings) -> bool:
    own = group.owner.multiplexed
    return settings.multiplexed if own is None else own


def _floor(name: str, groups: Sequence[Group], shape: Shape) -> int:
    least = max(shape.floor(group.owner) for group in groups)
    return least if name == "shared" else max(FLOOR_ROWS, least)


def _too_few(
    hashed: Sequence[Group], num_rows: int, need: int, settings: TableSettings, shape: Shape
) -> tuple[str, str]:
    most = max(hashed, key=lambda group: shape.floor(group.owner))
    if settings.multiplexed and all(_is_multiplexed(group, settings) for group in hashed):
        why = f'"{most.name}" reads {shape.floor(most.owner)} for each value'
    else:
        why = f"a range of its own has at least {FLOOR_ROWS}"
    missing = (need - num_rows) * row_bytes(shape.width)
    return (
        f"{num_rows:,} rows are left for the {len(hashed)} hashed features ({_names(hashed)}), "
        f"which need at least {need:,}: {why}",
        f"raise table.budget by at least {missing:,} bytes, or lower table.width or the lookups"
        + (", or table.hot_rows" if settings.hot_rows else ""),
    )


def _names(groups: Sequence[Group]) -> str:
    names = [f'"{group.name}"' for group in groups[:3]]
    more = len(groups) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
