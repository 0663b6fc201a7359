"""What QR and tensor trains have in common: every value has a number, and the number digits.

    multiplexed       the features' values are numbered one feature after the other
    per feature       each feature's values are numbered from 0, in a region of its own

The dictionaries that number the values are outside the budget, as those of exact rows are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.regions import Placement, Region
from features.routing import Layout
from features.schema import FeatureSet
from features.settings import TableSettings
from features.statistics import FeatureStatistics
from trainer.representations.exact import exact_regions, is_exact, known_vocabulary
from trainer.representations.groups import Group, group_features, placements
from trainer.representations.hashed import exact_reader, region_parts, rows_left

# A number for every value, one for the unseen and one for null.
_MORE_NUMBERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Values that are numbered together, in a region of their own."""

    name: str
    numbers: int
    """How many numbers there are."""
    offsets: Mapping[str, int]
    """The first number of each group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered:
    """The features of a layout, numbered."""

    spaces: tuple[Space, ...]
    exact: tuple[Group, ...]
    vocabularies: Mapping[str, Any]
    """By group."""

    def exact_rows(self, count: int) -> int:
        """Returns the rows of all exact groups, `count` for each value."""
        return sum(
            group.exact_rows(len(self.vocabularies[group.name]), count) for group in self.exact
        )


def number(
    feature_set: FeatureSet, seen: FeatureStatistics | None, settings: TableSettings
) -> Numbered:
    """Numbers the values of all features; PlanError where a vocabulary is not known."""
    groups = group_features(feature_set, seen)
    exact = tuple(group for group in groups if is_exact(group, settings))
    others = [group for group in groups if group not in exact]
    vocabularies = {group.name: known_vocabulary(group) for group in groups}
    spaces = []
    for name, members in region_parts(others, seen is not None, settings):
        offsets, numbers = {}, 0
        for group in members:
            offsets[group.name] = numbers
            numbers += len(vocabularies[group.name]) + _MORE_NUMBERS
        spaces.append(Space(name=name, numbers=numbers, offsets=offsets))
    return Numbered(spaces=tuple(spaces), exact=exact, vocabularies=vocabularies)


def assemble(
    feature_set: FeatureSet,
    seen: FeatureStatistics | None,
    settings: TableSettings,
    numbered: Numbered,
    *,
    width: int,
    rows: Mapping[str, int],
    exact_count: int,
    reader: Callable[[Space, int], dict[str, Any]],
) -> Layout:
    """Returns the layout: `rows` by space; `reader(space, offset)` reads a group's numbers."""
    regions: list[Region] = []
    names: dict[str, str] = {}
    base = 0
    for space in numbered.spaces:
        regions.append(
            Region(name=space.name, kind="digits", base=base, rows=rows[space.name], width=width)
        )
        base += rows[space.name]
        names.update(dict.fromkeys(space.offsets, space.name))
    vocabularies = {group.name: numbered.vocabularies[group.name] for group in numbered.exact}
    counts = {group.name: exact_count for group in numbered.exact}
    more, exact_names = exact_regions(numbered.exact, vocabularies, base, width, counts)
    by_group = {group: space for space in numbered.spaces for group in space.offsets}

    def placed(one: Placement) -> Placement:
        group = one.feature.salt_name
        space = by_group.get(group)
        if space is None:
            tree, dictionary = exact_reader(settings.width, exact_count), None
        else:
            tree = reader(space, space.offsets[group])
            dictionary = numbered.vocabularies[group]
        return Placement(
            feature=one.feature,
            region=one.region,
            key_class=one.key_class,
            edges=one.edges,
            reader=tree,
            dictionary=dictionary,
        )

    return Layout.assemble(
        width=width,
        hash_seed=settings.hash_seed,
        regions=[*regions, *more],
        placements=[placed(one) for one in placements(feature_set, seen, names | exact_names)],
        vocabularies={exact_names[name]: keys for name, keys in vocabularies.items()},
    )


def balanced(numbers: int, digits: int) -> tuple[int, ...]:
    """Returns the radices of `digits` digits, as equal and small as can be, for that many
    numbers."""
    radices: list[int] = []
    left = numbers
    for place in range(digits, 0, -1):
        radix = root(left, place)
        radices.append(radix)
        left = -(-left // radix)
    return tuple(radices)


def root(number: int, degree: int) -> int:
    """Returns the smallest r with r^degree >= number."""
    guess = max(1, round(number ** (1 / degree)))
    while guess**degree < number:
        guess += 1
    while guess > 1 and (guess - 1) ** degree >= number:
        guess -= 1
    return guess


def left_over(numbered: Numbered, settings: TableSettings, width: int, exact_count: int) -> int:
    """Returns the rows of `width` that the exact features leave; see `rows_left`."""
    exact: Sequence[Group] = numbered.exact
    return rows_left(
        exact, numbered.exact_rows(exact_count), bool(numbered.spaces), settings, width
    )
