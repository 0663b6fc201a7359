"""The layout of a table that carries on: what was recorded stays, and new features find a place.

    recorded hashed regions, with those at their side      as they are, also of dropped features
    new hashed regions                                     of features that have one of their own
    recorded exact, hot and rare ones of kept features     as they are
    new exact regions

A dropped feature's exact rows go: nobody can find them without its dictionary. Its hashed region
stays, and a feature of that name that comes back reads it again. A new multiplexed feature joins
the shared region at no cost; new exact rows and new regions have to fit into the budget, new
regions share what it leaves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from features.errors import ConfigError, PlanError
from features.regions import FeatureRoute, Placement, Region
from features.routing import Layout
from features.schema import Feature, FeatureSet
from features.settings import TableSettings
from features.statistics import FeatureStatistics
from trainer.recorded import moved, placement_of, stacked, vocabularies_of
from trainer.representations.budget import FLOOR_ROWS, apportion, row_bytes, total_rows
from trainer.representations.exact import exact_regions, is_exact, known_vocabulary
from trainer.representations.groups import Group, group_features, placements
from trainer.representations.hashed import exact_reader, region_parts

_DICTIONARIES = ("exact", "rare", "hot")
_NUMBERED = ("product", "tensor_train")


def evolved_layout(
    feature_set: FeatureSet,
    seen: FeatureStatistics | None,
    settings: TableSettings,
    recorded: Layout,
) -> Layout:
    """Returns the layout of a job that carries on a table of the layout `recorded`.

    Features of the same name are taken to be the same (`trainer.evolve_changes` refuses others).
    Raises PlanError where new features do not fit into the budget, or the method has no place for
    them.
    """
    known = {route.name: route for route in recorded.routes}
    groups = group_features(feature_set, seen)
    kept = [group for group in groups if group.name in known]
    fresh = [group for group in groups if group.name not in known]
    exact = [g for g in fresh if settings.method == "exact" or is_exact(g, settings)]
    hashed = [group for group in fresh if group not in exact]
    staying = _staying(recorded, [known[group.name] for group in kept])
    counts = {group.name: _exact_count(group.owner, recorded) for group in exact}
    vocabularies = {group.name: known_vocabulary(group) for group in exact}
    added, exact_names = exact_regions(exact, vocabularies, 0, recorded.width, counts)
    parts = region_parts(hashed, seen is not None, settings)
    names = {group.name: name for name, members in parts for group in members} | exact_names
    own = [(name, members) for name, members in parts if name not in _names(staying)]
    used = sum(region.rows for region in (*staying, *added))
    hashed_regions = _new_regions(own, used, settings, recorded)
    regions = _in_order(staying, hashed_regions, added)
    by_name = {region.name: region for region in regions}
    names |= {group.name: known[group.name].region for group in kept}
    return Layout.assemble(
        width=recorded.width,
        hash_seed=recorded.hash_seed,
        regions=regions,
        placements=[
            _placed(one, recorded, by_name) for one in placements(feature_set, seen, names)
        ],
        vocabularies={
            **vocabularies_of(recorded, staying),
            **{exact_names[name]: keys for name, keys in vocabularies.items()},
        },
    )


def unused_rows(settings: TableSettings, layout: Layout) -> int:
    """Returns the rows that the budget would allow beyond those of a layout."""
    allowed = total_rows(settings, layout.width)
    return 0 if allowed is None else max(0, allowed - layout.rows)


def _staying(recorded: Layout, kept: Sequence[FeatureRoute]) -> list[Region]:
    """Returns the recorded regions that stay."""
    found = {route.region for route in kept}
    for route in kept:
        if route.popular is not None:
            chosen = (route.popular.hot, route.popular.frequent)
            found |= {each.region for each in chosen if each is not None}
    return [r for r in recorded.regions if r.kind not in _DICTIONARIES or r.name in found]


def _new_regions(
    parts: Sequence[tuple[str, list[Group]]],
    used: int,
    settings: TableSettings,
    recorded: Layout,
) -> list[Region]:
    """Returns the regions of new features that have rows of their own, all that the budget
    leaves; PlanError where it leaves too little, or less than what is there."""
    width = recorded.width
    allowed = total_rows(settings, width)
    tables = settings.num_lookups if settings.method == "pq" else 1
    least = [max([FLOOR_ROWS, tables, *_lookups(members)]) for _, members in parts]
    need = used + sum(least)
    if allowed is not None and need > allowed:
        raise PlanError(
            f"the table that is carried on, with the rows of new features, has at least {need:,} "
            f"rows of width {width}, and the job allows {allowed:,}",
            f'set table.budget to at least "{need * row_bytes(width)} B" (and remove table.rows), '
            "hash the new features into the shared region ([feature.NAME] exact = false), or "
            "shrink the table first: `muxtable resize RUN --fold 2`",
        )
    if not parts:
        return []
    if recorded.has_readers:
        raise PlanError(
            f'"{parts[0][1][0].name}" would need a region of its own, and method '
            f'"{settings.method}" carries on with the regions it has',
            "multiplex the new features, or train a new run",
        )
    if allowed is None:
        raise ConfigError(
            "neither table.budget nor table.rows is given",
            'say what the table may cost, as in table.budget = "64 MiB"',
        )
    weights = [sum(max(group.cardinality, 1) for group in members) for _, members in parts]
    shares = apportion(allowed - used, weights, least)
    regions = []
    for (name, _), rows in zip(parts, shares, strict=True):
        kind: Literal["shared", "feature"] = "shared" if name == "shared" else "feature"
        regions.append(Region(name=name, kind=kind, base=0, rows=rows, width=width, parts=tables))
    return regions


def _in_order(
    staying: Sequence[Region], hashed: Sequence[Region], exact: Sequence[Region]
) -> tuple[Region, ...]:
    """Returns all regions, each behind those of its kind that were there before."""

    def of(*kinds: str) -> list[Region]:
        return [region for region in staying if region.kind in kinds]

    beside = [r for r in staying if r.kind not in ("shared", "feature", *_DICTIONARIES)]
    first = [*of("shared", "feature"), *hashed]
    return stacked([*first, *beside, *of("exact"), *exact, *of("rare", "hot")])


def _placed(one: Placement, recorded: Layout, regions: Mapping[str, Region]) -> Placement:
    """Returns the placement of a feature: as recorded, or as that of one like it."""
    feature = one.feature
    owner = next((r for r in recorded.routes if r.name == feature.salt_name), None)
    if owner is not None:
        # Its own, or that of the feature whose rows it shares.
        there = replace(placement_of(owner, feature), key_class=one.key_class, edges=one.edges)
        return moved(there, recorded, regions)
    if not recorded.has_readers:
        return one
    if regions[one.region].kind == "exact":
        width = _like(feature, recorded).width_total
        return replace(one, reader=exact_reader(width, _exact_count(feature, recorded)))
    like = placement_of(_like(feature, recorded, one.region))
    if like.reader is not None and like.reader["kind"] in _NUMBERED:
        raise PlanError(
            f'"{feature.name}" is new, and this table numbers the values of its features: there '
            "are no numbers left for its own",
            f"give it exact rows ([feature.{feature.name}] exact = true), or train a new run",
        )
    return moved(replace(one, reader=like.reader), recorded, regions)


def _like(feature: Feature, recorded: Layout, region: str | None = None) -> FeatureRoute:
    """Returns a feature of the table that reads as a new one is to; PlanError if there is none."""
    for route in recorded.routes:
        is_there = region is None or route.region == region
        if is_there and route.feature.num_lookups == feature.num_lookups:
            return route
    raise PlanError(
        f'no feature of the table has {feature.num_lookups} lookups, as the new "{feature.name}" '
        "has",
        f"set feature.{feature.name}.lookups to what the others have, or train a new run",
    )


def _exact_count(feature: Feature, recorded: Layout) -> int:
    """Returns the rows that each value of a new exact feature owns."""
    if not recorded.has_readers:
        return feature.num_lookups
    return -(-_like(feature, recorded).width_total // recorded.width)


def _lookups(members: Sequence[Group]) -> list[int]:
    return [group.owner.num_lookups for group in members]


def _names(regions: Sequence[Region]) -> set[str]:
    return {region.name for region in regions}
