"""`igpo sample`: completions of prompts, with or without hints, by one sampler or several, and the canvas as it fills in."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer
from attrs import frozen

from igpo_cli.commands import App, config_command
from igpo_cli.errors import UsageError, note

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
    from torch import Tensor

    from igpo_cli.config import Config
    from igpo_sampling import Canvas, Loaded, Sample

COLUMN = 24
"""Characters that a text needs at least beside others; on a narrower terminal they stand below each other."""


def register(app: App) -> None:
    """Adds the command."""

    @config_command(app, "sample", tables=("", "model", "sampler", "prompt"), vary=("compare", "sampler"))
    def sample(
        configs: dict[str, Config],
        *,
        prompt: Annotated[
            list[str], typer.Option(metavar="TEXT", help="A prompt; may be repeated. Default: tasks of the run.")
        ] = [],  # noqa: B006
        hint: Annotated[
            list[str],
            typer.Option(
                metavar="SLOT:TEXT", help="Given tokens from completion slot SLOT (0 is the first); may be repeated."
            ),
        ] = [],  # noqa: B006
        rows: Annotated[int, typer.Option(min=1, help="Samples of each prompt; without --prompt, how many tasks.")] = 1,
        compare: Annotated[
            str | None,
            typer.Option(metavar="NAME,NAME", help="Samplers side by side: the same prompts, seeds and hints."),
        ] = None,
        watch: Annotated[bool, typer.Option("--watch", help="Show the canvas as it fills in.")] = False,
        pause: Annotated[float, typer.Option(min=0.0, help="Seconds between the pictures of --watch.")] = 0.1,
        as_json: Annotated[bool, typer.Option("--json", help="A list of objects.")] = False,
    ) -> None:
        """Sample from a model or a run (igpo sample runs/NAME), around hints if some are given."""
        import torch

        from igpo_cli.assemble import load_model, trained_model
        from igpo_cli.problems import encode_prompts
        from igpo_cli.tasks import tasks_of
        from igpo_rl import derive
        from igpo_sampling import Canvas

        config = next(iter(configs.values()))  # they differ in their samplers only
        for text in dict.fromkeys(text for each in configs.values() for text in each.notes):
            note(text)
        questions = [text for text in prompt for _ in range(rows)] or [
            task.prompt for task in tasks_of(config, config.run.split, limit=rows)
        ]
        loaded = load_model(config, trained_model(config))
        if hint and loaded.block is not None:
            note(
                f"attention is block-causal, {loaded.block} tokens a block: a hint is seen by its own and later blocks, "
                "not by those before it"
            )
        device = next(loaded.denoiser.parameters()).device
        ids = [row.to(device) for row in encode_prompts(config.section("prompt"), loaded.tokenizer, questions)]
        canvas = Canvas.blank(ids, config.run.width, mask_id=loaded.mask_id, pad_id=loaded.pad_id)
        overlay = hint_overlay(hint, loaded.tokenizer, config.run.width).to(device)
        canvas = canvas.inpaint(overlay.expand(len(ids), -1))
        seeds = torch.tensor([derive(config.run.seed, "sample", row) for row in range(len(ids))], device=device)
        if len(configs) > 1:  # what is done once only is not the first sampler's time
            with torch.no_grad():
                loaded.denoiser(canvas.tokens, canvas.attention, torch.zeros(1, dtype=torch.long, device=device))
        takes = [
            Take.of(name, each, loaded, canvas, seeds, prompts=questions, pause=pause if watch else None)
            for name, each in configs.items()
        ]
        if as_json:
            found = [each.plain(questions) for each in takes]
            print(json.dumps(found if compare else found[0]["samples"], indent=2, ensure_ascii=False))
        else:
            show(questions, takes)


@frozen(eq=False, kw_only=True)
class Take:
    """What one sampler made of the canvas."""

    name: str
    """The sampler's name; empty where it is the only one."""
    texts: tuple[str, ...]
    """Completions as a verifier reads them: up to EOS, without special tokens."""
    rows: tuple[tuple[list[str], list[bool]], ...]
    """The tokens as they look, EOS included, and which of them were hints."""
    forwards: tuple[int, ...]
    tokens: int
    """Blanks that were filled, what stands behind EOS included."""
    seconds: float
    """Sampling alone, without the pictures of --watch."""

    @classmethod
    def of(
        cls,
        name: str,
        config: Config,
        loaded: Loaded,
        canvas: Canvas,
        seeds: Tensor,
        *,
        prompts: Sequence[str],
        pause: float | None,
    ) -> Take:
        """Sample, and show the canvas meanwhile unless `pause` is None."""
        import torch

        from igpo_cli import screen
        from igpo_cli.pieces import decoder, pieces
        from igpo_cli.play import EndHidden, until_eos

        decode = decoder(loaded.tokenizer)
        given = canvas.given[:, -canvas.width :]
        live: Any = nullcontext()
        if pause is not None:
            live = screen.watch(
                decode,
                given,
                mask_id=loaded.mask_id,
                eos_id=loaded.eos_id,
                pause=pause,
                title=name,
                prompts=prompts,
            )
        shown = 0.0

        def timed(step: int, tokens: Tensor) -> None:
            nonlocal shown
            before = time.perf_counter()
            picture(step, tokens)
            shown += time.perf_counter() - before

        with live as picture, torch.no_grad():
            started = time.perf_counter()
            try:
                sample: Sample = config.plugin("sampler")(
                    loaded.denoiser
                    if config.run.attend_eos
                    else EndHidden(loaded.denoiser, canvas.width, loaded.eos_id),
                    canvas,
                    seeds,
                    mask_id=loaded.mask_id,
                    eos_id=loaded.eos_id,
                    watch=timed if picture else None,
                )
            except ValueError as error:
                raise config.refuse("sampler", error) from error
            keep = until_eos(sample.completion, loaded.eos_id).cpu()
            seconds = time.perf_counter() - started - shown
        kept = [ids[mask].tolist() for ids, mask in zip(sample.completion.cpu(), keep, strict=True)]
        hints = [row[mask].tolist() for row, mask in zip(given.cpu(), keep, strict=True)]
        return cls(
            name=name,
            texts=tuple(loaded.tokenizer.decode(ids, skip_special_tokens=True) for ids in kept),
            rows=tuple((pieces(decode, ids), hint) for ids, hint in zip(kept, hints, strict=True)),
            forwards=tuple(sample.forwards.tolist()),
            tokens=int((~given).sum()),
            seconds=seconds,
        )

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds

    def plain(self, questions: Sequence[str]) -> dict[str, Any]:
        """For --json."""
        samples = [
            {"prompt": question, "completion": text, "forwards": forwards}
            for question, text, forwards in zip(questions, self.texts, self.forwards, strict=True)
        ]
        times = {"tokens": self.tokens, "seconds": round(self.seconds, 6), "tokens_per_second": round(self.speed, 1)}
        return {"sampler": self.name, **times, "samples": samples}


def hint_overlay(hints: list[str], tokenizer: Any, width: int) -> Tensor:
    """SLOT:TEXT ... -> (1, L) long: token ids to give, -1 elsewhere."""
    import torch

    from igpo_cli.problems import refuse_unknown_words

    overlay = torch.full((1, width), -1, dtype=torch.long)
    for hint in hints:
        matched = re.fullmatch(r"(\d+):(.+)", hint, re.DOTALL)
        if matched is None:
            raise UsageError(f"--hint '{hint}' must be SLOT:TEXT, such as 0:rev or 12:'so x = 4'.")
        refuse_unknown_words(tokenizer, [matched[2]])
        ids = tokenizer(matched[2], add_special_tokens=False)["input_ids"]
        start = int(matched[1])
        if start + len(ids) > width:
            raise UsageError(
                f"--hint '{hint}' ends at slot {start + len(ids)}, but the completion has width = {width}."
            )
        if (overlay[0, start : start + len(ids)] >= 0).any():
            raise UsageError(f"--hint '{hint}' covers slots that another hint gives already.")
        overlay[0, start : start + len(ids)] = torch.tensor(ids)
    return overlay


def show(questions: Sequence[str], takes: Sequence[Take], console: Console | None = None) -> None:
    """Prompts and their completions, hints coloured; model text never controls the terminal."""
    from rich.text import Text

    from igpo_cli.pieces import visible
    from igpo_cli.screen import marked, tolerant_console

    console = console or tolerant_console()
    columns = len(takes) > 1 and console.is_terminal and console.width >= COLUMN * len(takes)
    for number, question in enumerate(questions):
        console.print(Text(visible(question), "bold"), soft_wrap=True)
        texts = [marked(*take.rows[number]) for take in takes]
        costs = [Text(f"{take.forwards[number]} forwards", "dim") for take in takes]
        heads = [Text(take.name, "bold blue") for take in takes]
        if columns:
            console.print(beside([heads, texts, costs]), "")
            continue
        for head, text, cost in zip(heads, texts, costs, strict=True):
            if head:
                console.print(head, "", sep="", soft_wrap=True)
            console.print(text, cost, "", sep="\n", soft_wrap=True)
    if len(takes) > 1:
        console.print(costs_of(takes))


def beside(lines: Sequence[Sequence[Text]]) -> Table:
    """Lines of cells in columns of equal width."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for _ in lines[0]:
        table.add_column(ratio=1, overflow="fold")
    for line in lines:
        table.add_row(*line)
    return table


def costs_of(takes: Sequence[Take]) -> Table:
    """A sampler a line: what its samples cost."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 3, 0, 0))
    for title in ("sampler", "forwards a row", "tokens a second", "seconds"):
        table.add_column(title, justify="left" if title == "sampler" else "right")
    for take in takes:
        forwards = sum(take.forwards) / len(take.forwards)
        table.add_row(take.name, f"{forwards:.1f}", f"{take.speed:,.0f}", f"{take.seconds:.2f}")
    return table
