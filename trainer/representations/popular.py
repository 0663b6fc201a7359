"""Hot rows and frequent values: what the most frequent values of the hashed features get.

All hashed features compete by traffic: the values are taken from the most frequent one on, whatever
their feature. Hot values are taken until their rows, one for each lookup, fill the share
`table.hot_rows` of the table; they are paid inside its budget. How frequent a value is comes from
the profile (`features.heavy`). A bucketized feature has no counts: its values stay as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from features.errors import PlanError
from features.heavy import HeavyHitters, by_count
from features.popular import Chosen
from features.regions import Region
from features.settings import MAX_POPULAR, TableSettings
from trainer.representations.groups import Group

Keys = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PopularValues:
    """The values of each group that popularity sets apart, by the group's name."""

    hot: Mapping[str, Keys]
    frequent: Mapping[str, Keys]
    """Of the groups whose values do not all read all lookups."""
    lookups: Mapping[str, int]

    @property
    def num_rows(self) -> int:
        """Rows of all regions that go with them."""
        hot = sum(len(keys) * self.lookups[name] for name, keys in self.hot.items())
        return hot + sum(self.lookups[name] - 1 for name in self.frequent)

    def regions(
        self, base: int, width: int
    ) -> tuple[list[Region], dict[str, Chosen], dict[str, Chosen]]:
        """Returns the regions from row `base` on, and hot and frequent values by group."""
        regions: list[Region] = []

        def add(kind: Literal["rare", "hot"], name: str, rows: int) -> str:
            first = base + sum(region.rows for region in regions)
            full = f"{kind}:{name}"
            regions.append(Region(name=full, kind=kind, base=first, rows=rows, width=width))
            return full

        frequent = {
            name: Chosen(region=add("rare", name, self.lookups[name] - 1), keys=keys)
            for name, keys in self.frequent.items()
        }
        hot = {
            name: Chosen(region=add("hot", name, len(keys) * self.lookups[name]), keys=keys)
            for name, keys in self.hot.items()
        }
        return regions, hot, frequent


def find_popular(
    groups: Sequence[Group], settings: TableSettings, table_rows: int
) -> PopularValues:
    """Returns the popular values of hashed groups; nothing where the table asks for none.

    Raises PlanError where the profile did not count them.
    """
    lookups = {group.name: group.owner.num_lookups for group in groups}
    counted = [(group, seen) for group in groups if (seen := _heavy(group)) is not None]
    if not settings.popular_values:
        return PopularValues(hot={}, frequent={}, lookups=lookups)
    if not counted and any(group.owner.kind != "bucketized" for group in groups):
        raise PlanError(
            "hot rows and frequent values need to know which values are frequent, and the profile "
            "does not say",
            "profile the data with these settings again, or remove table.hot_rows and "
            "table.frequent_values",
        )
    owners = [np.full(len(seen.keys), place) for place, (_, seen) in enumerate(counted)]
    owner = np.concatenate([np.empty(0, np.int64), *owners])
    keys = np.concatenate([np.empty(0, np.uint64), *(seen.keys for _, seen in counted)])
    counts = np.concatenate([np.empty(0, np.int64), *(seen.counts for _, seen in counted)])
    order = by_count(counts)
    owner, keys = owner[order], keys[order]

    def first(number: int) -> dict[str, Keys]:
        return {
            group.name: np.sort(keys[:number][owner[:number] == place])
            for place, (group, _) in enumerate(counted)
        }

    costs = np.array([lookups[group.name] for group, _ in counted], np.int64)
    paid = np.cumsum(costs[owner]) <= int(settings.hot_rows * table_rows)
    hot = first(min(int(np.count_nonzero(paid)), MAX_POPULAR))
    frequent = {} if settings.frequent_values is None else first(settings.frequent_values)
    return PopularValues(
        hot={name: values for name, values in hot.items() if len(values)},
        frequent={name: values for name, values in frequent.items() if lookups[name] > 1},
        lookups=lookups,
    )


def _heavy(group: Group) -> HeavyHitters | None:
    """The frequent values of a group, over all features in it."""
    found = None
    for seen in group.statistics or ():
        if seen.popular is not None:
            found = seen.popular if found is None else found.merged(seen.popular)
    return found
