"""`igpo sample`: completions of prompts, with or without hints, and the canvas as it fills in."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from igpo_cli.commands import App, config_command
from igpo_cli.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from igpo_cli.config import Config


def register(app: App) -> None:
    """Adds the command."""

    @config_command(app, "sample", tables=("", "model", "sampler", "prompt"))
    def sample(
        config: Config,
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
        watch: Annotated[bool, typer.Option("--watch", help="Show the canvas as it fills in.")] = False,
        pause: Annotated[float, typer.Option(min=0.0, help="Seconds between the pictures of --watch.")] = 0.1,
        as_json: Annotated[bool, typer.Option("--json", help="A list of objects.")] = False,
    ) -> None:
        """Sample from a model or a run (igpo sample runs/NAME), around hints if some are given."""
        from contextlib import nullcontext

        import torch

        from igpo_cli import screen
        from igpo_cli.assemble import load_model, tasks_of, trained_model
        from igpo_cli.pieces import decoder
        from igpo_cli.play import until_eos
        from igpo_cli.problems import encode_prompts
        from igpo_rl import derive
        from igpo_sampling import Canvas

        questions = [text for text in prompt for _ in range(rows)] or [
            task.prompt for task in tasks_of(config, config.run.split, limit=rows)
        ]
        loaded = load_model(config, trained_model(config))
        device = next(loaded.denoiser.parameters()).device
        ids = [row.to(device) for row in encode_prompts(config.section("prompt"), loaded.tokenizer, questions)]
        canvas = Canvas.blank(ids, config.run.width, mask_id=loaded.mask_id, pad_id=loaded.pad_id)
        overlay = hint_overlay(hint, loaded.tokenizer, config.run.width).to(device)
        canvas = canvas.inpaint(overlay.expand(len(ids), -1))
        seeds = torch.tensor([derive(config.run.seed, "sample", row) for row in range(len(ids))], device=device)
        decode = decoder(loaded.tokenizer)
        given = canvas.given[:, -config.run.width :]
        live: Any = screen.watch(decode, given, mask_id=loaded.mask_id, pause=pause) if watch else nullcontext()
        with live as picture, torch.no_grad():
            result = config.plugin("sampler")(
                loaded.denoiser, canvas, seeds, mask_id=loaded.mask_id, eos_id=loaded.eos_id, watch=picture
            )
        keep = until_eos(result.completion, loaded.eos_id)
        found = [
            {
                "prompt": question,
                "completion": loaded.tokenizer.decode(tokens[kept].tolist(), skip_special_tokens=True),
                "forwards": int(forwards),
            }
            for question, tokens, kept, forwards in zip(
                questions, result.completion, keep, result.forwards, strict=True
            )
        ]
        if as_json:
            print(json.dumps(found, indent=2, ensure_ascii=False))
            return
        show(
            found,
            [
                (row[kept].tolist(), hints[kept].tolist())
                for row, kept, hints in zip(result.completion, keep, given, strict=True)
            ],
            decode,
        )


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


def show(found: list[dict[str, Any]], rows: list[tuple[list[int], list[bool]]], decode: Any) -> None:
    """A prompt and its completion, hints coloured; model text never controls the terminal."""
    from rich.text import Text

    from igpo_cli.pieces import pieces, visible
    from igpo_cli.screen import marked, tolerant_console

    console = tolerant_console()
    for sample, (ids, given) in zip(found, rows, strict=True):
        console.print(Text(visible(sample["prompt"]), "bold"), soft_wrap=True)
        console.print(marked(pieces(decode, ids), given), soft_wrap=True)
        console.print(Text(f"{sample['forwards']} forwards", "dim"), "", sep="\n")
