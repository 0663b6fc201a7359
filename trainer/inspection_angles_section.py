"""The angles between readers, as a section of the page of an inspection."""

from __future__ import annotations

from html import escape

from trainer.inspection_angles import Angles, Key
from trainer.page import GAP, section, table

_MOST_IN_HEAT = 40


def angles_section(what: str, angles: Angles | str, *, has_matrix: bool) -> str:
    """Returns the section, or why there are no angles; the matrix where it is asked for and not too
    large."""
    title = f"Angles: {what}"
    if isinstance(angles, str):
        return section(title, "", angles)
    pairs = table(
        ["lookup", "and lookup", "angle", "main directions"],
        [
            [
                _name(pair.first),
                _name(pair.second),
                f"{pair.angle:.1f}",
                f"{pair.main_direction:.1f}",
            ]
            for pair in angles.nearest
        ],
        "kinds",
    )
    note = (
        f"Between the {angles.of}; {angles.num_pairs:,} pairs of lookups that share rows. Mean "
        f"angle {angles.mean:.1f}\N{DEGREE SIGN}; readers that read all directions alike have "
        f"{angles.uniform:.1f}\N{DEGREE SIGN}, and at 90\N{DEGREE SIGN} what one feature writes "
        "into a row the other does not see. Main directions, those read most: "
        f"{angles.mean_main_direction:.1f}\N{DEGREE SIGN} on average. The nearest pairs:"
    )
    return section(title, pairs + (_heat(angles) if has_matrix else ""), note)


def _heat(angles: Angles) -> str:
    if len(angles.readers) > _MOST_IN_HEAT:
        return ""
    head = "".join(f"<th><span>{escape(_name(key))}</span></th>" for key in angles.readers)
    body = []
    for key, row in zip(angles.readers, angles.matrix, strict=True):
        cells = "".join(_cell(angle) for angle in row)
        body.append(f"<tr><th>{escape(_name(key))}</th>{cells}</tr>")
    return (
        f'{GAP}<div class="scroll"><table class="heat"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(angle: float | None) -> str:
    if angle is None:
        return "<td></td>"
    # From 90 degrees, where nothing passes, to 30 and below.
    strength = round(min(max((90 - angle) / 60, 0), 1) * 75)
    colour = f"color-mix(in srgb, var(--orange) {strength}%, transparent)"
    return f'<td style="background:{colour}">{angle:.0f}</td>'


def _name(key: Key) -> str:
    feature, lookup = key
    return f"{feature} {lookup}"
