"""The demo's job file: one text for the demo, for its example and for the benchmark."""

from __future__ import annotations

from pathlib import Path


def demo_job(data: str, run: str) -> str:
    """Returns the job file whose rows lie in the folder `data`, both relative to the file."""
    text = (Path(__file__).parent / "flights.toml").read_text(encoding="utf-8")
    return text.replace("{data}", data).replace("{run}", run)
