"""The demo's job file, written beside its data."""

from __future__ import annotations

from pathlib import Path


def demo_job(data: str) -> str:
    """Returns the job file whose rows lie in the folder `data`, relative to the file."""
    text = (Path(__file__).parent / "flights.toml").read_text(encoding="utf-8")
    return text.replace("{data}", data)
