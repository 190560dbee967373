"""What a user sees when something is wrong: what, where, why and what to do, in one line.

A usage error (exit 2) is found before work starts; a run error (exit 1) ends work that had begun. Everything else that
escapes is a bug, and says so.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

REMEDIES = {
    errno.ENOSPC: ". Make room, or write to another disk (--folder, --out).",
    errno.EDQUOT: ". Make room, or write to another disk (--folder, --out).",
    errno.EACCES: ". Choose a place that you may use (--folder, --out), or mend its permissions.",
    errno.EROFS: ". Choose a place that can be written (--folder, --out).",
}
USAGE, FAILED, INTERRUPTED = 2, 1, 130


class UsageError(Exception):
    """The command, its flags or its files are wrong; nothing has been started."""

    exit_code = USAGE


class RunError(Exception):
    """A run that had begun could not go on."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StopError(Exception):
    """A signal ended a run, between two steps."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


def close(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` was probably meant to be."""
    return next(iter(get_close_matches(word, list(choices), n=1, cutoff=0.6)), None)


def out_of_memory(what: str, option: str, rows: int, width: int, vocabulary: int) -> RunError:
    """`rows` x `width` positions over a `vocabulary` in float32 did not fit."""
    size = rows * width * vocabulary * 4 / 2**30
    remedy = f"Try --{option.replace('_', '-')} {max(1, rows // 8)}, or halve --group."
    if rows <= 1:
        remedy = "One row cannot be halved: try --gradient-checkpointing, --lora.rank 64, --dtype bfloat16, or a smaller --width."
    return RunError(
        f"out of memory in {what} at B={rows}, L={width}, V={vocabulary} ({size:.1f} GiB of logits). {remedy}"
    )


@contextmanager
def configuring() -> Iterator[None]:
    """While options become objects, a library's ValueError is the user's to mend."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def first() -> bool:
    """Whether this is the only process of the command, or the first of several: the one that speaks for all."""
    return int(os.environ.get("RANK", 0)) == 0


def warn(message: str) -> None:
    """A line on stderr; the program goes on. Of several processes the first one says it."""
    if first():
        _print("warning:", "bold yellow", message)


def note(message: str) -> None:
    """A line on stderr about what was understood; nothing is wrong."""
    if first():
        _print("note:", "bold", message)


def report(error: BaseException, verbose: bool) -> int:
    """Print the error, with its traceback if `verbose`; the exit code of the process."""
    if verbose and not isinstance(error, KeyboardInterrupt):
        traceback.print_exception(error)
    owner = next(iter(getattr(error, "__notes__", ())), None)  # the plug-in that raised it
    match error:
        case KeyboardInterrupt():
            if first():
                _print("interrupted", "bold", "")
            return INTERRUPTED
        case StopError():
            if first():
                _print("stopped", "bold", str(error))
            return error.exit_code
        case BrokenPipeError():  # `igpo plugins | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        case UsageError() | RunError():
            message, code = str(error), error.exit_code
        case ValueError():
            message, code = f"{owner}: {error}" if owner else str(error), FAILED
        case OSError(filename=name, strerror=reason) if reason:
            message, code = f"{f'{name}: ' if name else ''}{reason}{REMEDIES.get(error.errno or 0, '')}", FAILED
        case ConnectionError() if not owner:
            message, code = f"the network failed: {error}", FAILED
        case ModuleNotFoundError(name=str(name)) if not owner and not name.startswith("igpo"):
            message, code = f"this needs the package '{name}', which is not installed. pip install {name}", FAILED
        case Exception() if hasattr(error, "format_message"):  # Typer's own, whose classes it keeps private
            message, code = str(error.format_message()), USAGE
            where = getattr(getattr(error, "ctx", None), "command_path", "igpo")
            if message.startswith(("No such", "Missing", "Got unexpected")) and not message.endswith(("?", ")")):
                message += f" ({where} --help)"
        case _ if owner:
            message, code = f"{owner} raised {type(error).__name__}: {error}. -v shows where.", FAILED
        case _:
            message, code = f"unexpected {type(error).__name__}: {error}. -v shows where; please report it.", FAILED
    _print("error:", "bold red", message)
    return code


def _print(label: str, style: str, message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    from igpo_cli.pieces import visible

    text = Text.assemble((label, style), " ", visible(message)) if message else Text(label, style)
    Console(stderr=True, soft_wrap=True).print(text)
