"""`igpo data rewrite`: worked solutions made concise, checked and written as a .jsonl to fine-tune on."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from igpo_cli.commands import App, config_command
from igpo_cli.errors import RunError, UsageError, configuring

if TYPE_CHECKING:
    from igpo_cli.config import Config
    from igpo_data.rewriters import Rewriter

SECONDS = 5.0
# Between two lines about how far it is.


Who = Literal["rules", "server", "local"]


def register(app: App) -> None:
    """Adds the command."""

    @config_command(app, "data rewrite", tables=("", "task", "verifier"))
    def rewrite(
        config: Config,
        *,
        out: Annotated[
            Path, typer.Option(metavar="FILE.jsonl", help="Where the kept rows go. Read it with --task jsonl.")
        ],
        rewriter: Annotated[
            Who, typer.Option(help="rules: no model; server: an OpenAI-compatible one; local: a directory.")
        ] = "rules",
        url: Annotated[str, typer.Option(help="Of the server, up to /v1.")] = "http://localhost:8000/v1",
        writer: Annotated[
            str | None, typer.Option(metavar="MODEL", help="The server's name of its model, or the local directory.")
        ] = None,
        key_variable: Annotated[
            str, typer.Option(metavar="NAME", help="Environment variable with the server's key.")
        ] = "OPENAI_API_KEY",
        tokens: Annotated[int, typer.Option(min=1, help="A trace must be shorter, so that its end still fits.")] = 1024,
        tokenizer: Annotated[
            Path | None, typer.Option(metavar="DIR", help="Whose tokens are counted; a rough count without it.")
        ] = None,
        temperature: Annotated[float, typer.Option(min=0.0, help="Of the server's sampling; 0 is greedy.")] = 0.0,
        concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 8,
        retries: Annotated[int, typer.Option(min=0, help="Further tries of a request, after growing pauses.")] = 6,
        instruction: Annotated[
            Path | None,
            typer.Option(metavar="FILE.txt", help="What the model is asked, with {prompt}, {trace} and {form} in it."),
        ] = None,
        keep_short: Annotated[
            bool, typer.Option("--keep-short", help="Leave traces alone that are short enough.")
        ] = False,
        price_in: Annotated[
            float, typer.Option(min=0.0, help="Price of a million prompt tokens, for the report.")
        ] = 0.0,
        price_out: Annotated[float, typer.Option(min=0.0, help="Price of a million new tokens, for the report.")] = 0.0,
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Write FILE.jsonl anew if it exists.")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print the report as one object.")] = False,
    ) -> None:
        """Make long worked solutions concise, keep those that still verify, and write them to fine-tune on.

        Whatever a model was paid for is kept in FILE.jsonl.journal: the same command goes on where it was stopped.
        """
        from igpo_cli.tasks import tasks_of, verifier_of
        from igpo_data.rewrite import rewrite, rough_tokens, write_rows
        from igpo_data.rewriters import FailedError, UnusableError

        if out.exists() and not overwrite:
            raise UsageError(
                f"{out} exists; choose another --out, or --overwrite (answers in its journal stay paid for)"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        who = rewriter_of(
            rewriter,
            url=url,
            writer=writer,
            key_variable=key_variable,
            temperature=temperature,
            retries=retries,
            tokens=2 * tokens,
            instruction=instruction,
        )
        count = counter_of(tokenizer) if tokenizer else rough_tokens
        tasks = tasks_of(config, config.run.split, limit=config.run.limit)
        journal = None if rewriter == "rules" else out.with_name(out.name + ".journal")
        try:
            with verifier_of(config) as verifier:
                result = rewrite(
                    tasks,
                    who,
                    verifier,
                    journal=journal,
                    tokens=tokens,
                    count=count,
                    concurrency=concurrency,
                    keep_short=keep_short,
                    progress=ticker(),
                )
        except UnusableError as error:
            raise UsageError(str(error)) from error
        except FailedError as error:
            raise RunError(
                f"{error}. What was answered is in {journal}; the same command goes on from there."
            ) from error
        write_rows(out, result)
        report = result.report(price_in, price_out)
        out.with_name(out.name + ".report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        if as_json:
            print(json.dumps(report, indent=2))
        else:
            show(report, out)


def rewriter_of(
    who: Who,
    *,
    url: str,
    writer: str | None,
    key_variable: str,
    temperature: float,
    retries: int,
    tokens: int,
    instruction: Path | None,
) -> Rewriter:
    """The rewriter of these options."""
    from igpo_data.rewriters import Local, Rules, Server

    asked: dict[str, Any] = {"instruction": instruction.read_text(encoding="utf-8")} if instruction else {}
    with configuring():
        if who == "rules":
            return Rules()
        if not writer:
            raise UsageError(f"--rewriter {who} needs --writer: the model that rewrites")
        if who == "local":
            return Local(path=writer, tokens=tokens, **asked)
        return Server(
            url=url,
            model=writer,
            key_variable=key_variable,
            temperature=temperature,
            retries=retries,
            tokens=tokens,
            **asked,
        )


def counter_of(folder: Path) -> Callable[[str], int]:
    """Counts the tokens of a checkpoint's tokenizer."""
    from igpo_sampling.models.checkpoints import read_tokenizer

    with configuring():
        tokenizer = read_tokenizer(folder)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def ticker() -> Callable[[int, int], None]:
    """Says every few seconds how far it is, on stderr."""
    said = time.monotonic()

    def tick(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= SECONDS or done == total:
            said = time.monotonic()
            print(f"{done:,} of {total:,} rewritten", file=sys.stderr, flush=True)

    return tick


def show(report: dict[str, Any], out: Path) -> None:
    """The figures as lines, then why rows were dropped."""
    from rich.text import Text

    from igpo_cli.table import pairs, pipe_or_terminal

    console = pipe_or_terminal()
    about = {}
    for name, value in report.items():
        if name == "dropped":
            value = ", ".join(f"{reason} {number:,}" for reason, number in value.items()) or 0
        if name != "dropped rows":
            about[name] = f"{value:,}" if isinstance(value, int | float) else str(value)
    pairs(about, console)
    console.print(Text(f"\nwritten to {out}; train on it with"))
    console.print(Text(f"--task jsonl --task.path {out} --task.trace trace --task.key key", "bold"), soft_wrap=True)
