"""The command line: finds the command, runs it, and turns every failure into one screen.

A command is a function `command` in `launch/commands/NAME.py`, imported when it is called, so that
`muxtable hash` starts without torch. It returns None or an exit code.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from features.errors import ConfigError, FirstRankError, LostRankError
from launch.console import Output
from launch.environment import is_first_rank, prepare_environment
from launch.failures import BROKEN_PIPE, INTERRUPTED, describe
from launch.logs import set_up_logging

# Command -> its module in launch.commands, in the order of the help page.
COMMANDS = {
    "demo": "demo",
    "init": "init",
    "plan": "plan",
    "train": "train",
    "sweep": "sweep",
    "submit": "submit",
    "eval": "evaluate",
    "predict": "predict",
    "resize": "resize",
    "export": "export",
    "apply": "apply",
    "diff": "diff",
    "serve": "serve",
    "versions": "versions",
    "promote": "promote",
    "rollback": "rollback",
    "lookup": "lookup",
    "inspect": "inspection",
    "hash": "hashing",
    "convert": "convert",
    "k8s": "k8s",
    "doctor": "doctor",
}
_COMMON = {"--json", "--quiet", "--debug"}
_EPILOG = "Also: --json (machine-readable stdout), --quiet, --debug (tracebacks)."


class _Commands(TyperGroup):
    """The group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        del ctx
        if cmd_name not in COMMANDS:
            near = difflib.get_close_matches(cmd_name, COMMANDS, n=1)
            fix = f'did you mean "{near[0]}"?' if near else f"commands: {', '.join(COMMANDS)}"
            raise ConfigError(f'there is no command "{cmd_name}"', fix)
        return _load(cmd_name)


def _load(name: str) -> Any:
    module = importlib.import_module(f"launch.commands.{COMMANDS[name]}")
    single = typer.Typer(add_completion=False)
    if hasattr(module, "app"):  # a command with commands of its own
        app: typer.Typer = module.app
        app.info.name, app.info.epilog = name, _EPILOG
        return typer.main.get_command(app)
    settings = getattr(module, "CONTEXT_SETTINGS", None)
    single.command(name=name, epilog=_EPILOG, context_settings=settings)(module.command)
    return typer.main.get_command(single)


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from muxtable import __version__

        print(f"muxtable {__version__}")
        raise typer.Exit


# The three common options are taken out of the arguments before typer sees them, wherever they
# stand; they are declared here for the help page.
@app.callback()
def _root(
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress and no tables: warnings and errors only.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and debugging logs.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """One hashed embedding table for every categorical feature, inside a byte budget."""


def split_common(arguments: Sequence[str]) -> tuple[Output, list[str]]:
    """Returns the common options and the arguments without them; `--` protects what follows it."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    head = arguments[:end]
    # Of several ranks the first one speaks; the others have only errors of their own to report.
    output = Output(
        json="--json" in head and is_first_rank(),
        quiet="--quiet" in head or not is_first_rank(),
        debug="--debug" in head,
    )
    return output, [word for word in head if word not in _COMMON] + list(arguments[end:])


def run(arguments: Sequence[str]) -> int:
    """Runs the command line with `arguments` and returns the exit code; prints all errors."""
    output, rest = split_common(arguments)
    try:
        code = typer.main.get_command(app).main(
            args=rest, prog_name="muxtable", standalone_mode=False, obj=output
        )
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter's flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        code = INTERRUPTED
    except typer.TyperException as exc:
        return _usage(exc, output)
    except Exception as exc:  # noqa: BLE001 - the last handler: nothing may end in a traceback
        return _fail(exc, output)
    if code == INTERRUPTED:
        output.note("interrupted")
    return code if isinstance(code, int) else 0


def _fail(exc: Exception, output: Output) -> int:
    if output.debug:
        import traceback

        traceback.print_exception(exc)
    failure = describe(exc)
    if isinstance(exc, FirstRankError | LostRankError) and not is_first_rank():
        return failure.exit_code
    output.error(failure.what, failure.fix, failure.exit_code)
    return failure.exit_code


def _usage(exc: typer.TyperException, output: Output) -> int:
    context = getattr(exc, "ctx", None)
    path = context.command_path if context is not None else "muxtable"
    message = exc.format_message().rstrip(".")
    if type(exc).__name__ == "NoArgsIsHelpError":  # the message is the help page, printed already
        return exc.exit_code
    what = f"{path}: {message[0].lower()}{message[1:]}"
    output.error(what, f"`{path} --help` lists what it takes", exc.exit_code)
    return exc.exit_code


def main() -> None:
    """Runs `muxtable` with the arguments of the process and exits."""
    prepare_environment()
    set_up_logging(split_common(sys.argv[1:])[0])
    sys.exit(run(sys.argv[1:]))
