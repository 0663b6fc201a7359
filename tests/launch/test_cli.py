import json
import subprocess
import sys

import pytest

from launch.cli import COMMANDS, run, split_common
from launch.console import Output
from tests.launch.command import ROOT, muxtable


def test_common_options_are_found_wherever_they_stand():
    arguments = ["--quiet", "hash", "user", "5", "--json", "--rows", "9", "--debug"]

    output, rest = split_common(arguments)

    assert output == Output(json=True, quiet=True, debug=True)
    assert rest == ["hash", "user", "5", "--rows", "9"]


def test_two_dashes_protect_values_that_look_like_options():
    arguments = ["hash", "user", "--rows", "9", "--", "--json"]

    output, rest = split_common(arguments)

    assert not output.json
    assert rest == arguments


def test_an_unknown_command_names_the_nearest_one(capsys):
    code = run(["trian"])

    captured = capsys.readouterr()
    assert code == 2
    assert 'there is no command "trian"' in captured.err
    assert 'did you mean "train"?' in captured.err


def test_an_unknown_option_is_one_screen_and_exits_with_2(capsys):
    code = run(["hash", "user", "5", "--rows", "9", "--sed", "1"])

    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.startswith("error: there is no option --sed")
    assert len(captured.err.splitlines()) == 2


def test_a_missing_argument_says_where_help_is(capsys):
    code = run(["hash", "user", "5"])

    captured = capsys.readouterr()
    assert code == 2
    assert "missing option '--rows'" in captured.err
    assert "`muxtable hash --help`" in captured.err


def test_with_json_an_error_is_a_document_too(capsys):
    code = run(["hash", "user", "five", "--rows", "9", "--json"])

    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert code == document["error"]["exit_code"] == 2
    assert document["error"]["what"] == '"five" is no integer'


def test_an_unforeseen_error_is_one_line_unless_debugged(monkeypatch, capsys):
    import launch.commands.hashing as module

    def explode(*_args, **_kwargs):
        raise RuntimeError("boom")

    monkeypatch.setattr(module, "_rows", explode)

    quiet = run(["hash", "user", "5", "--rows", "9"])
    short = capsys.readouterr().err
    loud = run(["hash", "user", "5", "--rows", "9", "--debug"])
    long = capsys.readouterr().err

    assert (quiet, loud) == (1, 1)
    assert "unexpected RuntimeError: boom" in short
    assert "--debug" in short
    assert "Traceback" not in short
    assert "Traceback" in long


def test_ctrl_c_ends_with_130_and_a_word(monkeypatch, capsys):
    import launch.commands.hashing as module

    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_rows", interrupt)

    code = run(["hash", "user", "5", "--rows", "9"])

    assert code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("option", ["", "--json"])
def test_a_reader_that_goes_away_is_no_error(option):
    reader = f"(sleep 0.5; {sys.executable} -m muxtable hash user 5 --rows 9 {option}) | true"

    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", reader],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 141
    assert done.stderr == ""


def test_no_command_shows_the_help():
    done = muxtable()

    assert done.code == 2
    for name in COMMANDS:
        assert f" {name} " in done.out + done.err


def test_the_version_is_printed():
    from muxtable import __version__

    done = muxtable("--version")

    assert (done.code, done.out) == (0, f"muxtable {__version__}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    code = run([name, "--help"])

    text = capsys.readouterr().out
    assert code == 0
    assert "Usage: muxtable" in text
    assert "--json" in text


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["doctor", "--no-torch"], ["hash", "user", "5", "--rows", "9"]],
    ids=lambda arguments: arguments[0],
)
def test_light_commands_start_without_torch(arguments):
    script = (
        "import sys, launch.cli\n"
        "code = launch.cli.run(sys.argv[1:])\n"
        "heavy = {'torch', 'pandas', 'sklearn', 'ray', 'matplotlib'} & sys.modules.keys()\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else code)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
