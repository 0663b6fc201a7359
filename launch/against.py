"""What `plan --against` shows: what becomes of every feature where a job carries a model on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console

from launch.console import Column, facts, table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from features.parquet import Dataset
    from features.profile import Profile
    from features.routing import Layout
    from features.schema import FeatureSet
    from trainer.evolve import Parent
    from trainer.evolve_changes import Changes
    from trainer.job import Job

_WORDS = {
    "keeps": "keeps its rows",
    "cold": "starts cold",
    "dropped": "is dropped",
    "refused": "is refused",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """A parent, and what becomes of its features and of those of the job."""

    parent: Parent
    job: Job
    """The job, with the lookups that the parent had where the job leaves them open."""
    feature_set: FeatureSet
    changes: Changes
    tower: str | None = None
    """Why the tower starts fresh; None where it is carried over."""
    unused_rows: int = 0
    """Rows that the budget allows and the table does not take."""

    @classmethod
    def of(
        cls, path: Path | None, job: Job, base: Path, datasets: Mapping[str, Dataset]
    ) -> Against | None:
        """Compares with the parent at `path`, else with that of the job; None if there is none."""
        if path is None and job.run.parent is None:
            return None
        # Loads torch, which a plan does without otherwise.
        from trainer.evolve import changes_of, open_parent
        from trainer.lookups import feature_set_of, inherited, with_lookups

        parent = open_parent(base / (job.run.parent or "") if path is None else path)
        job = with_lookups(job, inherited(job, parent.feature_set))
        feature_set = feature_set_of(job)
        changes = changes_of(parent, job, feature_set, datasets)
        return cls(parent=parent, job=job, feature_set=feature_set, changes=changes)

    def carried_on(self, fresh: Profile) -> tuple[Against, Profile, Layout]:
        """Returns it in full, and the profile and the layout that the job would have.

        `fresh` is the profile of the new data alone. Raises PlanError where new features find no
        room.
        """
        from trainer.evolve import layout_for, merged_profile, why_tower_is_fresh
        from trainer.evolve_changes import with_reasons
        from trainer.evolve_layout import unused_rows

        job, feature_set = self.job, self.feature_set
        profile = merged_profile(self.parent, fresh)
        layout = layout_for(feature_set, profile, job.table, self.parent)
        full = replace(
            self,
            changes=with_reasons(self.changes, layout, fresh),
            tower=why_tower_is_fresh(self.parent, job, feature_set, profile, layout),
            unused_rows=unused_rows(job.table, layout),
        )
        return full, profile, layout

    def to_json(self) -> dict[str, Any]:
        """Returns the comparison as plain JSON values."""
        return {
            "run": str(self.parent.run.path),
            "step": self.parent.step,
            "refused": self.changes.refusals,
            "counts": self.changes.counts(),
            "features": [
                {"name": each.name, "outcome": each.outcome, "reason": each.reason}
                for each in self.changes.features
            ],
            "tower": self.tower,
            "unused_rows": self.unused_rows,
        }

    def render(self, console: Console) -> None:
        """Draws the comparison for a person."""
        columns = [
            Column("feature", right=False),
            Column("", right=False),
            Column("", right=False),
        ]
        rows = [(each.name, _WORDS[each.outcome], each.reason) for each in self.changes.features]
        title = f"against step {self.parent.step:,} of {self.parent.run.path}"
        console.print(table(title, columns, rows))
        if self.changes.refusals:
            refused = [("refused", each) for each in self.changes.refusals]
            console.print(facts("this job cannot carry it on", refused))
            return
        said = [
            ("tower", "is carried over" if self.tower is None else f"starts fresh: {self.tower}")
        ]
        if self.unused_rows:
            said.append(
                (
                    "unused",
                    f"{self.unused_rows:,} rows of the budget; `muxtable resize` grows a table",
                )
            )
        console.print(facts("the model", said))
