"""The igpo command: finds the subcommand, imports its module and no other, and turns every error into a message."""

from __future__ import annotations

import atexit
import importlib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from igpo_cli import completion, errors, launch
from igpo_cli.__about__ import __version__
from igpo_cli.commands import App, canonical

COMMANDS = {
    "train": "Train and ask",
    "sft": "Train and ask",
    "sample": "Train and ask",
    "eval": "Train and ask",
    "lm-eval": "Train and ask",
    "ablate": "Train and ask",
    "runs": "Understand",
    "plot": "Understand",
    "report": "Understand",
    "merge": "Share",
    "push": "Share",
    "data": "Prepare",
    "config": "Prepare",
    "plugins": "Prepare",
    "new": "Prepare",
    "doctor": "Prepare",
}
"""Every command, one module each in igpo_cli.commands, and the panel of --help in which it stands."""
OF_RUNS = ("sample", "eval", "lm-eval", "merge")
"""Commands to which a run's folder stands for its run.toml."""
WRAPPERS = ("lm-eval",)
"""Commands that run another program, whose words stand behind a --."""
TAKE_FOLDERS = ("--compare", "--out", "--model.path")
"""Options of theirs whose value may be a run's folder, and means it."""
VERBOSE = ("-v", "--verbose")


def main() -> None:
    """The console script."""
    code = run(sys.argv[1:])
    if launch.ranks() > 1:
        leave(code)
    sys.exit(code)


def leave(code: int) -> NoReturn:
    """End one process of several, whose work is done, without taking the interpreter apart.

    Threads of torch.distributed that are met half-way there end the process by SIGABRT now and then ("terminate called
    without an active exception"), and so a job that had saved everything.
    """
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def run(argv: Sequence[str]) -> int:
    """Do what argv says; the exit code: 0, 1 for a failed run, 2 for wrong usage, 130 when interrupted."""
    if (typed := completion.words()) is not None:
        return complete(typed)
    argv, rest = apart(argv)
    verbose = any(word in VERBOSE for word in argv)
    words = [canonical(word) for word in argv if word not in VERBOSE] or ["--help"]
    words = resumed(of_runs(words))
    try:
        code = build(words, rest, verbose)(args=words, prog_name="igpo", standalone_mode=False) or 0
        if code == errors.INTERRUPTED:  # what Typer makes of a KeyboardInterrupt
            raise KeyboardInterrupt
        sys.stdout.flush()  # here a closed pipe is an error to be handled, at exit it would be a traceback
        return int(code)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 the error boundary
        return errors.report(launch.stand_back(error), verbose=verbose)


def complete(typed: list[str]) -> int:
    """Answer a shell that asks what may follow these words."""
    for known in (of_runs([canonical(word) for word in completion.settled(typed)]), typed[:1], []):
        try:
            with redirect_stderr(io.StringIO()):  # a warning would stand in the middle of what is being typed
                build(known or ["--help"])(prog_name="igpo", standalone_mode=False)
        except SystemExit as answered:
            return int(answered.code or 0)
        except Exception:  # noqa: BLE001 what was typed is not right yet; with fewer words it may be
            continue
    return 1


def apart(argv: Sequence[str]) -> tuple[Sequence[str], list[str]]:
    """argv, and behind a -- what is meant for the program that the command runs."""
    if "--" not in argv or argv[0] not in WRAPPERS:
        return argv, []
    at = list(argv).index("--")
    return argv[:at], list(argv[at + 1 :])


def of_runs(words: list[str]) -> list[str]:
    """Commands on a run: its folder, or the name of one in runs/ right behind the command, stands for its run.toml."""
    if not words or words[0] not in OF_RUNS:
        return words
    named = Path("runs") / words[1] / "run.toml" if len(words) > 1 else Path()
    if len(words) > 1 and not Path(words[1]).exists() and not words[1].startswith("-") and named.is_file():
        words = [words[0], str(named), *words[2:]]
    files = [Path(word) / "run.toml" for word in words]
    return [
        str(file) if before not in TAKE_FOLDERS and file.is_file() else word
        for before, word, file in zip(["", *words], words, files, strict=False)
    ]


def resumed(words: Sequence[str]) -> list[str]:
    """A run is resumed with its own run.toml, so that --help and flags are those of its plug-ins; its name in runs/ will do."""
    known = [part for word in words for part in (word.split("=", 1) if word.startswith("--resume=") else [word])]
    places = [at for at, word in enumerate(known[:-1], start=1) if word == "--resume"]
    for at in places:
        inside = Path("runs") / known[at]
        known[at] = str(inside) if not Path(known[at]).exists() and inside.is_dir() else known[at]
    file = Path(known[places[-1]]) / "run.toml" if places else Path()
    another = any(word.endswith(".toml") for word in known)  # the command says what is wrong with it
    return [*known, str(file)] if file.is_file() and not another else known


def build(argv: Sequence[str], rest: Sequence[str] = (), verbose: bool = False) -> App:
    """The command for one argv: a known subcommand alone, otherwise all of them."""
    app = App(argv, rest, verbose)
    app.callback()(_options)
    known = argv[0] in COMMANDS
    for name in argv[:1] if known else COMMANDS:
        importlib.import_module(f"igpo_cli.commands.{name.replace('-', '_')}").register(app)
    for command in app.registered_commands:
        command.rich_help_panel = COMMANDS[str(command.name or getattr(command.callback, "__name__", ""))]
    for group in app.registered_groups:
        group.rich_help_panel = COMMANDS[str(group.name)]
    if not known:
        app.catalogue.commands(app)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"igpo {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
    verbose: Annotated[
        bool, typer.Option(*VERBOSE, help="Show where an error came from; works behind any command too.")
    ] = False,
) -> None:
    pass
