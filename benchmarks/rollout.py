"""Exact rollouts against the published loop: one model, one process, the same schedule, hints in half of the rows.

The published loop reads the model at every position, takes a float64 softmax and float64 Gumbel noise over the whole
vocabulary there, and chooses each row's tokens by a top-k on the host (LLaDA's own loop: a float32 softmax); a batch of
64 it takes 8 rows at a time. Ours reads the blanks of the block. Memory is the peak of a step with 8 rows; the longest
baselines are run once. Notes count forwards of a row and head positions, of those that the published loop makes. The
caches stand beside our exact sampler, with the share of tokens on which they agree: random weights, on which a token
decides all that follow, make them differ more than a trained model does. The last rows say what sampling adds to the
forwards that it makes, of 64 rows, half of whose columns are blank.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from attrs import evolve
from torch import Tensor

from benchmarks import harness
from benchmarks.counted import Counted
from benchmarks.harness import Row, compare
from igpo_sampling import Canvas, LLaDASampler
from igpo_sampling.models.llada_network import LLaDAConfig, LLaDAForDiffusion

NAME = "Rollout"
ROWS, PROMPT, WIDTH, BLOCK = 8, 64, 128, 32
HINTS = {"no hints": slice(None), "hints in half": slice(None, None, 2), "hints in all": slice(0)}
"""The rows without hints, by what it is called."""


def network(vocabulary: int, width: int, layers: int) -> LLaDAForDiffusion:
    """Random weights, large enough in the head that tokens differ in probability; the mask is the last token."""
    config = LLaDAConfig(d_model=width, n_layers=layers, n_heads=width // 64, vocab_size=vocabulary, mlp_ratio=3)
    made = LLaDAForDiffusion(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in made.parameters():
            weight.fill_(1.0) if weight.ndim == 1 else weight.normal_(0.0, 2 * width**-0.5, generator=generator)
    return made.eval()


def canvas(
    vocabulary: int, rows: int = ROWS, prompt: int = PROMPT, width: int = WIDTH, hints: str = "hints in half"
) -> Canvas:
    """Random prompts; rows with hints have a quarter of their completions given."""
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(vocabulary - 1, (rows, prompt), generator=generator)
    overlay = torch.randint(vocabulary - 1, (rows, width), generator=generator)
    overlay[torch.rand(rows, width, generator=generator) > 0.25] = -1
    overlay[HINTS[hints]] = -1
    return Canvas.blank(list(prompts), width, mask_id=vocabulary - 1, pad_id=0).inpaint(overlay)


@torch.no_grad()
def published(
    model: LLaDAForDiffusion,
    canvas: Canvas,
    steps: int,
    temperature: float,
    softmax: torch.dtype,
    last: int | None = None,
) -> Tensor:
    """The published loop, plainly: all positions, the whole vocabulary, a loop over rows. It ends behind step `last`."""
    mask_id = model.config.vocab_size - 1
    x = torch.where(canvas.given, canvas.tokens, mask_id)
    (B, T), P = x.shape, x.shape[1] - canvas.width
    everywhere = torch.arange(B * T, device=x.device)
    generator = torch.Generator(x.device).manual_seed(2)
    blocks = canvas.width // BLOCK
    share = steps // blocks
    for block in range(blocks):
        start, end = P + block * BLOCK, P + (block + 1) * BLOCK
        total = (x[:, start:end] == mask_id).sum(1)
        for step in range(share):
            if last is not None and block * share + step > last:
                return x[:, P:]
            mask = x == mask_id
            logits = model(x, canvas.attention, everywhere).view(B, T, -1)
            if temperature > 0:
                uniform = torch.rand(logits.shape, dtype=torch.float64, device=x.device, generator=generator)
                noised = logits.double().exp() / (-uniform.log()) ** temperature
            else:
                noised = logits
            proposed = torch.where(mask, noised.argmax(-1), x)
            shares = logits.to(softmax).softmax(-1)
            confidence = shares.gather(-1, proposed[:, :, None])[:, :, 0]
            confidence[:, end:] = -torch.inf
            confidence = confidence.masked_fill(~mask, -torch.inf)
            for row in range(B):
                count = int(total[row]) // share + (step < int(total[row]) % share)
                chosen = confidence[row].topk(count).indices
                x[row, chosen] = proposed[row, chosen]
    return x[:, P:]


def rollout(
    model: LLaDAForDiffusion | Counted, canvas: Canvas, steps: int, temperature: float, cache: str = "none"
) -> Tensor:
    sampler = LLaDASampler(steps=steps, block=BLOCK, temperature=temperature, cache=cache)
    mask_id = (model.model if isinstance(model, Counted) else model).config.vocab_size - 1
    return sampler(model, canvas, torch.arange(len(canvas)), mask_id=mask_id, eos_id=0).completion


def agreement(results: dict[str, Tensor]) -> str:
    """The share of tokens that are equal on both sides."""
    ours, theirs = results["ours"], results["theirs"]
    return f"{(ours == theirs).float().mean():.1%} of {ours.numel()} tokens equal"


def work(model: LLaDAForDiffusion, blank: Canvas, steps: int, taken: float, cache: str = "none") -> str:
    """What our side does: tokens a second of `taken`; a row's forwards and head positions, of all that there are."""
    counted = Counted(model)
    rollout(counted, blank, steps, 0.0, cache)
    rows, columns = blank.tokens.shape
    return (
        f"{steps} steps; {int(blank.blanks.sum()) / taken:,.0f} tokens a second, "
        f"{counted.inputs:,} of {rows * steps:,} forwards, {counted.head:,} of {rows * columns * steps:,} head positions"
    )


def versus_published(
    model: LLaDAForDiffusion,
    rows: int,
    steps: int,
    temperature: float,
    softmax: torch.dtype,
    repeats: int,
    hints: str = "hints in half",
) -> Row:
    """The published loop takes more than 8 rows 8 at a time, as its memory demands."""
    vocabulary = model.config.vocab_size
    blank, many = canvas(vocabulary, rows, hints=hints), canvas(vocabulary)
    results: dict[str, Tensor] = {}

    def ours() -> None:
        results["ours"] = rollout(model, blank, steps, temperature)

    def theirs() -> None:
        fields = zip(*(field.split(ROWS) for field in (blank.tokens, blank.given, blank.attention)), strict=True)
        parts = [evolve(blank, tokens=tokens, given=given, attention=seen) for tokens, given, seen in fields]
        results["theirs"] = torch.cat([published(model, part, steps, temperature, softmax) for part in parts])

    small = (
        lambda: rollout(model, many, WIDTH // BLOCK, temperature),
        lambda: published(model, many, WIDTH // BLOCK, temperature, softmax, last=0),
    )
    name = "published" if softmax == torch.float64 else "LLaDA's own"
    case = f"V {vocabulary:,}, T {temperature:g}, batch {rows}, {hints}, {name} loop"
    row = compare(case, ours, theirs, repeats=repeats, small=small)
    row["note"] = work(model, blank, steps, row["ours_s"])
    if temperature == 0:
        row["note"] += f"; {agreement(results)}"
    return row


def alone(model: LLaDAForDiffusion, rows: int, steps: int, temperature: float) -> Row:
    """Where the published loop, a few rows at a time, would take as often as long as for a few."""
    vocabulary = model.config.vocab_size
    blank = canvas(vocabulary, rows)
    taken = harness.seconds(lambda: rollout(model, blank, steps, temperature), repeats=1)
    case = f"V {vocabulary:,}, T {temperature:g}, batch {rows}, hints in half, alone"
    return harness.measured(case, taken, note=work(model, blank, steps, taken))


def versus_exact(model: LLaDAForDiffusion, cache: str, steps: int) -> Row:
    """What a cache saves, and how far it strays."""
    vocabulary = model.config.vocab_size
    blank = canvas(vocabulary)
    results: dict[str, Tensor] = {}

    def ours() -> None:
        results["ours"] = rollout(model, blank, steps, 0.0, cache)

    def exact() -> None:
        results["theirs"] = rollout(model, blank, steps, 0.0)

    row = compare(f"V {vocabulary:,}, T 0, {cache} cache, our exact sampler", ours, exact, repeats=2)
    row["note"] = f"{ROWS} rows, {steps} steps; {agreement(results)}"
    return row


def overhead(model: LLaDAForDiffusion, temperature: float, rows: int, width: int, repeats: int) -> Row:
    """The sampler against the forwards inside it, their head included: both sides are parts of the same run."""
    vocabulary, steps = model.config.vocab_size, 2
    blank = canvas(vocabulary, rows, width, width)
    sampler = LLaDASampler(steps=steps, block=width, temperature=temperature, max_rows=rows)

    def run() -> tuple[float, float]:
        forwards = 0.0

        def denoiser(tokens: Tensor, attention: Tensor, where: Tensor, read: Callable[..., object]) -> object:
            nonlocal forwards
            inside = heads = 0.0

            def timed(head: Callable[[Tensor], Tensor], hidden: Tensor) -> object:
                def each(part: Tensor) -> Tensor:
                    nonlocal heads
                    start = time.perf_counter()
                    logits = head(part)
                    heads += time.perf_counter() - start
                    return logits

                nonlocal inside
                start = time.perf_counter()
                result = read(each, hidden)
                inside = time.perf_counter() - start
                return result

            start = time.perf_counter()
            result = model(tokens, attention, where, timed)
            forwards += time.perf_counter() - start - inside + heads
            return result

        settings = {"mask_id": vocabulary - 1, "eos_id": 0}
        return harness.once(lambda: sampler(denoiser, blank, torch.arange(rows), **settings)), forwards

    run()
    row = harness.row(
        f"V {vocabulary:,}, T {temperature:g}, batch {rows}, forwards alone", [run() for _ in range(repeats)]
    )
    parameters = sum(weight.numel() for weight in model.parameters())
    row["note"] = f"{parameters / 1e6:.0f} M parameters; sampling adds {1 / row['ratio'] - 1:.1%}"
    return row


def run(quick: bool) -> list[Row]:
    exact, low, few = torch.float64, torch.float32, WIDTH // BLOCK
    # vocabulary, and rows: as many as keep the baseline's part to minutes
    sizes = [(1_000, 2)] if quick else [(32_000, 8), (126_464, 4)]
    steps, often, rows = (4, 1, list[Row]()) if quick else (16, 2, list[Row]())
    for vocabulary, some in sizes:
        model = network(vocabulary, 256, 4)
        rollout(model, canvas(vocabulary), few, 1.2)  # what is set up once is no peak of the first row
        rows += [versus_published(model, some, steps, 0.0, kind, often) for kind in (exact, low)]
        rows += [versus_published(model, some, steps, 1.2, exact, 1)]
        rows += [versus_published(model, 1, steps, heat, exact, 1, "no hints") for heat in (0.0, 1.2)]
        if vocabulary == sizes[0][0]:
            rows += [versus_published(model, some, steps, 0.0, exact, 1, hints) for hints in list(HINTS)[::2]]
            rows += [versus_published(model, 8 * some, few, 0.0, exact, 1)]
            rows += [versus_exact(model, cache, 4 * steps) for cache in ("prefix", "dual")]
        rows += [alone(model, 64, few, heat) for heat in (0.0, 1.2)]
    model = network(1_000, 64, 2) if quick else network(32_000, 768, 12)
    return rows + [overhead(model, temperature, *((4, 16, 1) if quick else (64, 32, 2))) for temperature in (0.0, 1.2)]
