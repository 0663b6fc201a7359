from launch.settings_page import settings_page
from tests.launch.command import ROOT


def test_the_committed_page_is_current():
    kept = (ROOT / "docs" / "settings.md").read_text()

    assert kept == settings_page(), "run `make docs`"


def test_every_key_has_a_line_of_help():
    rows = [line for line in settings_page().splitlines() if line.startswith("| `")]

    without = [row for row in rows if row.rstrip("| ").endswith("|") or row.endswith("|  |")]

    assert len(rows) > 60
    assert without == []
