import re

from launch.cli import COMMANDS
from tests.launch.command import ROOT, muxtable

PAGE = (ROOT / "docs" / "commands.md").read_text()
# Commands of commands, and the one with most options.
INNER = {"convert": ["movielens"], "k8s": ["render"]}


def test_every_command_has_a_section_and_a_row():
    for name in COMMANDS:
        assert f"\n## {name}\n" in PAGE
        assert f"| [`{name}`](#{name}) |" in PAGE


def test_every_option_on_the_page_is_one_of_its_command():
    for name in COMMANDS:
        section = PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
        words = [name, *INNER.get(name, ())]
        known = muxtable(*words, "--help").out + " --json --quiet --debug"

        written = re.findall(r"--[a-z][a-z-]+", section)

        assert [option for option in written if option not in known] == []


def test_no_option_is_left_out_of_the_page():
    for name in COMMANDS:
        section = PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
        words = [name, *INNER.get(name, ())]
        given = set(
            re.findall(r"^. +\*? *(--[a-z-]+)", muxtable(*words, "--help").out, re.MULTILINE)
        )

        missing = given - set(re.findall(r"--[a-z][a-z-]+", section)) - {"--help", "--torch"}

        assert given
        assert missing == set()
