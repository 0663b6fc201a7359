"""The page of an inspection."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from trainer.charts import Mark, Series, log_chart
from trainer.inspection import Inspection
from trainer.inspection_angles import Angles
from trainer.inspection_angles_section import angles_section
from trainer.inspection_needs import RATES
from trainer.inspection_rows import TOP_SHARES, NormBin
from trainer.inspection_worth import FeatureWorth, Worth
from trainer.page import GAP, Card, charts, number, page, percent, section, short, table

_TIMES = "\N{MULTIPLICATION SIGN}"
_PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


def render(found: Inspection, footer: str) -> str:
    """Returns the page."""
    rows = "all" if found.is_whole else "the first"
    subtitle = (
        f"{found.rows:,} rows {_TIMES} {found.width} at step {found.step:,}; measured on {rows} "
        f"{found.data_rows:,} rows of {found.data}"
    )
    sections = [
        _collisions(found),
        _use(found),
        _norms(found),
        # One matrix is enough, of what says more.
        angles_section(
            "what the first layers read",
            found.layer_angles,
            has_matrix=not isinstance(found.gradient_angles, Angles),
        ),
        angles_section("what reaches the output", found.gradient_angles, has_matrix=True),
        _worth(found.worth),
        _needs(found),
    ]
    return page(found.name, subtitle, _cards(found), sections, footer)


def _cards(found: Inspection) -> list[Card]:
    used, rows = sum(each.used for each in found.regions), sum(each.rows for each in found.regions)
    cards = [("rows read", percent(used / rows if rows else None), f"of {rows:,}")]
    reads = [one.reads * one.num_lookups for one in found.collisions]
    if reads:
        own = sum(n * one.own_reads for n, one in zip(reads, found.collisions, strict=True))
        same = sum(n * one.within_reads for n, one in zip(reads, found.collisions, strict=True))
        cards += [
            ("its own", percent(own / sum(reads)), "of the reads of a value's row"),
            ("same feature", percent(same / sum(reads)), "for values it is mistaken for"),
        ]
    if isinstance(found.gradient_angles, Angles):
        degrees = f"{found.gradient_angles.mean:.1f}\N{DEGREE SIGN}"
        cards.append(("angle of readers", degrees, "mean; 90\N{DEGREE SIGN} disturbs nothing"))
    return cards


def _collisions(found: Inspection) -> str:
    if not found.collisions:
        return section("Collisions", "", "No feature is hashed into rows that values share.")
    residents = table(
        [
            "feature",
            "kind",
            "values",
            "lookups",
            "rows",
            "same feature<br>expected",
            "same feature<br>by value",
            "same feature<br>by read",
            "others<br>expected",
            "others<br>by value",
            "others<br>by read",
        ],
        [
            [
                escape(one.feature),
                one.kind,
                f"{one.values:,}",
                str(one.num_lookups),
                f'{one.region_rows:,} <span class="tag">{escape(one.region)}</span>',
                *(
                    short(each)
                    for shares in (one.within, one.across)
                    for each in (shares.forecast, shares.values, shares.reads)
                ),
            ]
            for one in found.collisions
        ],
        "kinds",
        is_html=True,
    )
    effects = table(
        [
            "feature",
            "own",
            "same<br>feature",
            "others",
            "collide in one<br>expected",
            "in one<br>by value",
            "in one<br>by read",
            "in all<br>expected",
            "in all<br>by value",
            "in all<br>by read",
            "same rows<br>by value",
            "same rows<br>by read",
        ],
        [
            [
                escape(one.feature),
                *(percent(each) for each in (one.own_reads, one.within_reads, one.across_reads)),
                *(
                    percent(each)
                    for shares in (one.in_one_lookup, one.in_all_lookups)
                    for each in (shares.forecast, shares.values, shares.reads)
                ),
                percent(one.merged.values),
                percent(one.merged.reads),
            ]
            for one in found.collisions
        ],
        is_html=True,
    )
    left = ""
    if found.apart:
        left = f" Told apart for sure, and not listed: {', '.join(found.apart)}."
    if found.left_out:
        left += (
            f" Not counted, having too many values: {', '.join(found.left_out)}; figures of the "
            "others do not know of them."
        )
    return section(
        "Who shares a row",
        residents,
        "Other values in the row of a value, for one lookup. Same feature: read by the same lookup "
        "of the same feature, so that the model takes them for one value there. Others: values of "
        "other features, and of other lookups, which the tower can tell apart. By value: a mean "
        "over the values; by read: over the reads, where frequent values count more." + left,
    ) + section(
        "What comes of it",
        effects,
        "Of all reads of a value's row, and so of the gradients that move it: those for the value "
        "itself, for other values of its feature, for others (mean over the reads). Then the share "
        "of values, and of reads, that meet another value of their feature in one lookup; in all "
        "lookups, there maybe another one each time; and those with a twin in the very same rows.",
    )


def _use(found: Inspection) -> str:
    head = ["region", "rows", "read at all", "reads"]
    head += [f"hottest<br>{100 * share:g} % of rows" for share in TOP_SHARES]
    rows = [
        [
            escape(each.region),
            f"{each.rows:,}",
            percent(each.used / each.rows),
            f"{each.reads:,}",
            *(percent(share) for share in each.top_reads),
        ]
        for each in found.regions
    ]
    drawn = []
    if found.regions:
        largest = max(found.regions, key=lambda each: each.rows)
        lines = [Series(f"region {largest.region}", largest.curve)]
        label = "share of the rows, hottest first"
        drawn.append(
            (
                "Reads of the hottest rows",
                log_chart(lines, label, "share of the reads", log_y=False),
            )
        )
    shards = table(
        ["ranks", "busiest shard", "idlest shard"],
        [[str(s.world_size), f"{s.largest:.2f}", f"{s.smallest:.2f}"] for s in found.shards],
    )
    note = (
        "Reads that fall on the most read rows of a region; below, the reads of the busiest and "
        "the idlest shard over the mean one where so many ranks share the table. Exact rows lie "
        "together at its end, and frequent values make the last shards busy."
    )
    body = table(head, rows, is_html=True) + GAP
    return section("Use of the rows", body + charts([*drawn, ("Load of the shards", shards)]), note)


def _norms(found: Inspection) -> str:
    drawn = []
    for title, label, bins in (
        ("Norm and reads", "reads of a row", found.norms.by_reads),
        ("Norm and residents", "values in a row", found.norms.by_residents),
    ):
        shown = [each for each in bins if each.low]
        lines = [
            Series("median", [(each.mean, each.norms[1]) for each in shown], dots=True),
            Series("10th and 90th percentile", _side(shown, 0), 1),
            Series("", _side(shown, 2), 1),
        ]
        drawn.append((title, log_chart(lines, label, "norm")))
    start = ""
    if found.norms.initial_squared is not None:
        growth = found.norms.mean_squared / found.norms.initial_squared
        start = f" The mean squared norm is {growth:.3g} times that of the start."
    unread = next((each for each in found.norms.by_reads if not each.low), None)
    if unread is not None:
        start += f" {unread.rows:,} rows that nothing reads are not drawn."
    note = (
        "Rows that features are hashed into, in bins. Trained with binary cross entropy, rows grow "
        "with the values they hold once readers are orthogonal (squared norm of the order of "
        "values / rows): there, and under no other loss, growth with the residents tells of "
        "collisions. Growth with the reads alone is learning." + start
    )
    return section("Norms", charts(drawn), note)


def _side(bins: Sequence[NormBin], place: int) -> list[tuple[float, float]]:
    return [(each.mean, each.norms[place]) for each in bins]


def _worth(worth: Worth | str) -> str:
    title = "Worth of the features"
    if isinstance(worth, str):
        return section(title, "", worth)
    rows = [
        [one.feature, f"{one.auc_loss:+.5f}", f"{_PLUS_MINUS} {one.error:.5f}", _verdict(one)]
        for one in sorted(worth.features, key=lambda each: -each.auc_loss)
    ]
    note = (
        f"The AUC that is lost where the mean stands for a feature's embedding; with all of them "
        f"it is {number(worth.auc)} on {worth.rows:,} rows. Nothing is trained anew, so a feature "
        "whose part others could take over seems to be worth more than it is. The error is the "
        "standard error over the rows."
    )
    return section(title, table(["feature", "AUC lost", "error", ""], rows), note)


def _verdict(one: FeatureWorth) -> str:
    if abs(one.auc_loss) <= 2 * one.error:
        return "not told from 0"
    return "" if one.auc_loss > 0 else "harmful"


def _needs(found: Inspection) -> str:
    if not found.needs:
        return ""
    head = ["feature", "values", "lookups", "colliding now"]
    head += [f"rows for<br>{100 * rate:g} %" for rate in RATES]
    rows = [
        [
            escape(one.feature),
            f"{one.values:,}",
            str(one.num_lookups),
            percent(one.now),
            *(f"{count:,}" for count in one.rows),
        ]
        for one in found.needs
    ]
    lines = [
        Series(
            f"{curve.num_lookups} lookup{'s' if curve.num_lookups > 1 else ''}",
            curve.points,
            colour,
        )
        for colour, curve in enumerate(found.curves)
    ]
    alike = [one for one in found.collisions if not one.by_popularity]
    now = sum({one.region: one.region_rows for one in alike}.values())
    marks = [Mark(float(now), "now")]
    chart = log_chart(lines, "rows", "share of the values", marks)
    note = (
        "By the formula: the rows a feature's region needs for so few of its values to meet "
        "another one in every lookup; in a shared region the most demanding feature decides. The "
        "curves are of all hashed features together, with all regions growing alike. Features with "
        "values that are read by popularity are left out."
    )
    body = table(head, rows, is_html=True) + GAP
    return section("Rows needed", body + charts([("Values that collide in all", chart)]), note)
